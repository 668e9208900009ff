"""Sentiment of tweets, rated by people: does what is learned on tweets hold for reviews and editorials?

The question: which method reads short, loose English best, and does it still do so elsewhere? What we expect: tuned
models well ahead of counting words on tweets; less ahead on films, products and editorials, which none of them was
trained on.

Data: the texts that 20 people each rated from -4 to 4 for the VADER lexicon (Hutto and Gilbert, ICWSM 2014; MIT),
fetched from the package vaderSentiment. A mean above 0.5 is positive, below -0.5 negative.
"""

import io
import random
import tarfile
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from workbench import Monitoring, Recipe, Training
from workbench.data import Example, choice
from workbench.evaluation.baselines import tfidf
from workbench.sources import SMOLLM2, fetch_file, package_file

SENTIMENTS = ("negative", "neutral", "positive")
Row = dict[str, str]
# Texts of the other domains that are scored, of 3,708 to 10,605.
ELSEWHERE = 400


@cache
def rated(domain: str) -> list[Row]:
    """All texts of a domain once, in an order that does not change."""
    archive = fetch_file(package_file("vaderSentiment"))
    with tarfile.open(archive) as content:
        source = content.extractfile(f"hutto_ICWSM_2014/{domain}_GroundTruth.txt")
        assert source is not None
        lines = io.TextIOWrapper(source, encoding="utf-8", errors="replace").read().splitlines()
    rows: dict[str, Row] = {}
    for line in lines:
        number, rating, text = line.split("\t", 2)
        label = SENTIMENTS[1 + (float(rating) > 0.5) - (float(rating) < -0.5)]
        rows.setdefault(" ".join(text.lower().split()), {"id": f"{domain}-{number}", "text": text, "sentiment": label})
    found = list(rows.values())
    random.Random(0).shuffle(found)
    return found


def part(domain: str, start: int | None, end: int | None) -> Callable[[], list[Row]]:
    """A stretch of a domain's texts."""
    return lambda: rated(domain)[start:end]


def sentiment(row: Mapping[str, Any], answer: str | None = None) -> Example:
    """Is it a good thing that is said?"""
    return choice(row, row["text"], SENTIMENTS, answer, system="Sentiment", task="sentiment")


recipe = Recipe(
    checkpoint=SMOLLM2,
    data={
        "train": part("tweets", 1000, None),
        "validation": part("tweets", 800, 1000),
        "test": part("tweets", 0, 800),
        "films": part("movieReviewSnippets", 0, ELSEWHERE),
        "products": part("amazonReviewSnippets", 0, ELSEWHERE),
        "editorials": part("nytEditorialSnippets", 0, ELSEWHERE),
    },
    row_to_examples=lambda row: [sentiment(row, row["sentiment"])],
    inference_examples=lambda row: [sentiment(row)],
    monitoring=Monitoring(task="sentiment", label="negative"),
    methods=("untuned", "lora", "parallel"),
    metrics=("macro_f1", "accuracy", "mcc", "ece"),
    primary_metric="macro_f1",
    baselines={"tfidf": tfidf},
    # A few repeat what another wrote, nearly word for word: those are left out of training.
    allow_leaks=("test",),
    max_tokens=256,
    max_new_tokens=8,
    training=Training(num_train_epochs=1, batch_size=8, validations=4),
    settings={"lora": {"learning_rate": 1e-3}, "parallel": {"learning_rate": 2e-3}},
)
