"""The opinion data: sizes, splits, labels and how far two readers agreed."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import cohen_kappa_score

from near import near_pairs
from workbench.recipe import load_recipe

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "data" / "opinion"
FILES = ("train", "validation", "test.en", "test.zh")
SENTIMENTS = {"negative", "neutral", "positive"}


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").open(encoding="utf-8")]


def test_sizes_and_values() -> None:
    rows = [row for name in FILES for row in read(name)]
    languages = Counter(row["language"] for row in rows)
    assert sum(languages.values()) >= 1200
    assert min(languages.values()) >= 600
    assert len({row["id"] for row in rows}) == len(rows) == len({row["text"] for row in rows})
    for language in ("en", "zh"):
        some = [row for row in rows if row["language"] == language]
        cells = Counter((row["topic"], row["sentiment"]) for row in some)
        assert len(cells) == 27
        assert min(cells.values()) >= 20
        assert {sentiment for _, sentiment in cells} == SENTIMENTS
        assert {row["kind"] for row in some} == {"headline", "post"}
        assert sum(row["hard"] != "no" for row in some) >= 0.3 * len(some)
    assert all(row["firm"] in row["text"] for row in rows)


def test_a_firms_name_gives_nothing_away() -> None:
    by_firm: dict[str, Counter[str]] = {}
    for row in (row for name in FILES for row in read(name)):
        by_firm.setdefault(row["firm"], Counter())[row["sentiment"]] += 1
    often = [counts for counts in by_firm.values() if counts.total() >= 4]
    assert len(often) > 50
    assert sum(len(counts) > 1 for counts in often) > 0.9 * len(often)


@pytest.mark.parametrize(("language", "length"), [("en", 5), ("zh", 3)])
def test_no_text_stands_in_two_splits(language: str, length: int) -> None:
    splits = {
        name: {row["id"]: row["text"] for row in read(name) if row["language"] == language}
        for name in ("train", "validation", f"test.{language}")
    }
    assert sum(map(len, splits.values())) > 600
    assert near_pairs(splits, length) == []


def test_two_readers_agreed_and_disputed_texts_are_left_out() -> None:
    with (FOLDER / "labels.csv").open(encoding="utf-8") as file:
        labels = {row["id"]: row for row in csv.DictReader(file)}
    rows = {row["id"]: row for name in FILES for row in read(name)}
    assert rows.keys() <= labels.keys()
    for row_id, row in rows.items():
        label = labels[row_id]
        assert label["sentiment_writer"] == label["sentiment_second"] == row["sentiment"]
        assert label["topic_writer"] == label["topic_second"] == row["topic"]
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in ("sentiment", "topic"):
        kappa = cohen_kappa_score(
            [label[f"{name}_writer"] for label in labels.values()],
            [label[f"{name}_second"] for label in labels.values()],
        )
        assert f"{kappa:.3f}" in card


def test_the_recipe_asks_for_both() -> None:
    recipe = load_recipe(ROOT / "recipes" / "opinion.py")
    row = read("train")[0]
    assert isinstance(recipe.row_to_examples, dict)
    sentiment, topic = recipe.row_to_examples["train"](row)
    assert (sentiment.completion, sentiment.task, topic.task) == (row["sentiment"], "sentiment", "topic")
    assert recipe.inference_examples is not None
    new = recipe.inference_examples({"id": "1", "text": row["text"], "firm": row["firm"]})
    assert [example.prompt for example in new] == [sentiment.prompt, topic.prompt]
    assert [example.completion for example in new] == ["", ""]


@pytest.mark.parametrize("name", ["opinion", "opinion_tweets", "opinion_zh"])
def test_what_is_monitored_is_what_is_asked(name: str) -> None:
    recipe = load_recipe(ROOT / "recipes" / f"{name}.py")
    assert recipe.monitoring is not None
    assert recipe.inference_examples is not None
    asked = {e.task: e for e in recipe.inference_examples({"id": "1", "text": "Fees rise.", "firm": "Larkmoor"})}
    assert recipe.monitoring.label in asked[recipe.monitoring.task].choices
    assert {recipe.monitoring.topic_task} - {None} == asked.keys() - {recipe.monitoring.task}
