"""Public opinion of firms: is a headline or a post good or bad news for the firm it names, and what is it about?

The question: which method reads irony, negation and figures against expectations, from some 700 texts in each
language? What we expect: counting words (`tfidf`) fails on them; the untuned model knows the words and not the
firm's side; tuned ones do better, in English more than in Chinese, which this checkpoint was hardly shown.

Data: `data/opinion`, written for this project; see its README for how, and for its limits. What comes of it is used
by `python -m workbench.monitor`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench import Monitoring, Recipe, Training
from workbench.data import Example, choice
from workbench.evaluation.baselines import tfidf
from workbench.sources import SMOLLM2

DATA = Path(__file__).parent.parent / "data" / "opinion"
SENTIMENTS = ("negative", "neutral", "positive")
TOPICS = {
    "earnings": "earnings",
    "regulation": "regulation",
    "credit_risk": "credit risk",
    "fraud": "fraud",
    "mergers": "mergers",
    "products_fees": "products and fees",
    "markets": "markets",
    "management": "management",
    "outages": "outages and service",
}


def sentiment(row: Mapping[str, Any], answer: str | None = None) -> Example:
    """Is it good or bad for the firm?"""
    asked = f"{row['text']}\nFor {row['firm']}?"
    groups = ("language",) if answer else ()
    return choice(row, asked, SENTIMENTS, answer, system="Sentiment", groups=groups, task="sentiment")


def topic(row: Mapping[str, Any], answer: str | None = None) -> Example:
    """What is it about?"""
    groups = ("language",) if answer else ()
    return choice(row, row["text"], TOPICS.values(), answer, system="Topic", groups=groups, task="topic")


recipe = Recipe(
    checkpoint=SMOLLM2,
    data={
        "train": DATA / "train.jsonl",
        "validation": DATA / "validation.jsonl",
        "test": DATA / "test.en.jsonl",
        "test_zh": DATA / "test.zh.jsonl",
        "topics": DATA / "test.en.jsonl",
        "topics_zh": DATA / "test.zh.jsonl",
    },
    row_to_examples={
        **dict.fromkeys(
            ("train", "validation"),
            lambda row: [sentiment(row, row["sentiment"]), topic(row, TOPICS[row["topic"]])],
        ),
        **dict.fromkeys(("test", "test_zh"), lambda row: [sentiment(row, row["sentiment"])]),
        **dict.fromkeys(("topics", "topics_zh"), lambda row: [topic(row, TOPICS[row["topic"]])]),
    },
    inference_examples=lambda row: [sentiment(row), topic(row)],
    monitoring=Monitoring(task="sentiment", label="negative", topic_task="topic"),
    methods=("untuned", "lora", "parallel"),
    metrics=("macro_f1", "accuracy", "mcc", "ece"),
    primary_metric="macro_f1",
    baselines={"tfidf": tfidf},
    max_tokens=256,
    max_new_tokens=8,
    training=Training(num_train_epochs=2, batch_size=8, validations=4),
    settings={
        "lora": {"learning_rate": 1e-3, "r": 32, "lora_alpha": 64},
        "parallel": {"learning_rate": 2e-3, "bottleneck_size": 256},
    },
)
