"""The finserve data: sizes, splits, and no question in two of them."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from near import near_pairs

FOLDER = Path(__file__).parent.parent / "data" / "finserve"
SPLITS = ("train", "validation", "test", "test_unseen")


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


def questions(row: dict[str, Any]) -> str:
    return " ".join(message["content"] for message in row["messages"] if message["role"] == "user")


@pytest.mark.parametrize(("language", "length"), [("en", 5), ("zh", 3)])
def test_no_question_stands_in_two_splits(language: str, length: int) -> None:
    splits = {split: {row["id"]: questions(row) for row in rows} for split, rows in read(language).items()}
    assert sum(map(len, splits.values())) > 200
    assert near_pairs(splits, length) == []


def test_short_questions_stand_alone_and_know_nothing_of_the_tests() -> None:
    splits = {
        split: [json.loads(line) for line in (FOLDER / "questions" / f"{split}.jsonl").open(encoding="utf-8")]
        for split in ("train", "validation", "test")
    }
    counts = {split: Counter(row["topic"] for row in rows) for split, rows in splits.items()}
    assert set(counts["train"].values()) == {10}
    assert set(counts["validation"].values()) == {5}
    assert min(counts["test"].values()) > 40
    trained = {row["topic"] for row in read("en")["train"]}
    assert all(set(count) == trained for count in counts.values())
    held = {split: {row["id"]: questions(row) for row in read("en")[split]} for split in SPLITS[1:]}
    texts = {split: {row["id"]: row["text"] for row in rows} for split, rows in splits.items()}
    assert sum(map(len, texts.values())) == len({key for rows in texts.values() for key in rows})
    assert near_pairs(texts, 5) == []
    written = {key: text for rows in texts.values() for key, text in rows.items()}
    for split, asked in held.items():
        assert near_pairs({"written": written, split: asked}, 5) == []


def test_answers_to_short_questions_are_answers_to_those_questions() -> None:
    lines = (FOLDER / "en" / "train_short.jsonl").read_text(encoding="utf-8").splitlines()
    answered = [json.loads(line) for line in lines]
    questions = {
        row["id"]: row
        for split in ("train", "validation", "test")
        for row in map(json.loads, (FOLDER / "questions" / f"{split}.jsonl").open(encoding="utf-8"))
    }
    assert len(answered) == len({row["id"] for row in answered}) > 2000
    assert len({row["topic"] for row in answered[:43]}) == 43
    for row in answered:
        user, agent = row["messages"]
        assert (user["role"], user["content"]) == ("user", questions[row["id"]]["text"])
        assert (agent["role"], row["topic"]) == ("assistant", questions[row["id"]]["topic"])
        assert 40 <= len(agent["content"]) <= 420
        assert not re.search(r"\d %|[*#]", agent["content"]), row["id"]


def test_the_check_for_near_questions_would_find_one() -> None:
    asked = questions(read("en")["test"][0])
    ((a, b, share),) = near_pairs({"test": {"1": asked}, "train": {"2": asked.upper() + " please", "3": "Thanks"}}, 5)
    assert (a, b) == ("1", "2")
    assert 0.5 < share < 1
