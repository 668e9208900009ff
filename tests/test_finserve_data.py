"""The finserve data: sizes, splits, and no question in two of them."""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "data" / "finserve"
SPLITS = ("train", "validation", "test", "test_unseen")
NEAR = 0.35  # shared share of shingles; the nearest pair of two splits has 0.29


def read(language: str) -> dict[str, list[dict[str, Any]]]:
    return {
        split: [json.loads(line) for line in (FOLDER / language / f"{split}.jsonl").open(encoding="utf-8")]
        for split in SPLITS
    }


def topics(language: str) -> list[str]:
    text = (FOLDER / f"policy.{language}.md").read_text(encoding="utf-8")
    return re.findall(r"^## (\w+): ", text, re.MULTILINE)


@pytest.mark.parametrize(("language", "least"), [("en", 800), ("zh", 200)])
def test_sizes_topics_and_ids(language: str, least: int) -> None:
    data = read(language)
    rows = [row for split in SPLITS for row in data[split]]
    assert len(rows) >= least
    assert len({row["id"] for row in rows}) == len(rows)
    assert {row["topic"] for row in rows} == set(topics(language)) == set(topics("en"))
    assert {row["language"] for row in rows} == {language}
    trained = {row["topic"] for split in ("train", "validation", "test") for row in data[split]}
    unseen = {row["topic"] for row in data["test_unseen"]}
    assert len(unseen) == 4
    assert not unseen & trained
    assert {row["topic"] for row in data["train"]} == {row["topic"] for row in data["test"]} == trained


def test_at_least_120_conversations_have_several_turns() -> None:
    rows = [row for language in ("en", "zh") for split in read(language).values() for row in split]
    assert sum(len(row["messages"]) > 2 for row in rows) >= 120


def shingles(row: dict[str, Any], length: int) -> set[str]:
    asked = " ".join(m["content"] for m in row["messages"] if m["role"] == "user")
    text = " ".join(asked.lower().split())
    return {text[i : i + length] for i in range(max(1, len(text) - length + 1))}


@pytest.mark.parametrize(("language", "length"), [("en", 5), ("zh", 3)])
def test_no_question_stands_in_two_splits(language: str, length: int) -> None:
    marked = {split: [(row["id"], shingles(row, length)) for row in rows] for split, rows in read(language).items()}
    compared = 0
    near = []
    for left, right in combinations(SPLITS, 2):
        for a, mine in marked[left]:
            for b, theirs in marked[right]:
                compared += 1
                shared = len(mine & theirs)
                if shared > NEAR * (len(mine) + len(theirs) - shared):
                    near.append((a, b))
    assert compared > 1000
    assert near == []


def test_the_check_for_near_questions_would_find_one() -> None:
    row = read("en")["test"][0]
    almost = json.loads(json.dumps(row))
    almost["messages"][0]["content"] += " please"
    mine, theirs = shingles(row, 5), shingles(almost, 5)
    assert len(mine & theirs) > NEAR * len(mine | theirs)
