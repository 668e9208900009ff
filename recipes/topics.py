"""What does the customer want? Short questions to a bank in 43 topics, ten examples of each to learn from.

The question: with so few examples, is a tuned model better than counting words, and by which head? What we expect:
`tfidf` finds half of them; a tuned model knows that "the hole in the wall ate it" is about a cash machine, and finds
more. Within 15 minutes on two cores without bfloat16: `--minutes 15`.

Data: `data/finserve/questions`, written for this project; see its README for how, and for its limits.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench import Recipe, Training
from workbench.data import Example, choice
from workbench.evaluation.baselines import tfidf
from workbench.retrieval import read_passages
from workbench.sources import SMOLLM2

DATA = Path(__file__).parent.parent / "data" / "finserve"
# Where a block ends, in the upper half of the model: what the lower half gives for a text is computed once, so that a
# step takes a third of the time, and three times as many learn more.
UPPER_ENDS = {"target_modules": ["o_proj", "down_proj"], "layers_to_transform": list(range(15, 30))}
SYSTEM = "Topic"
# Short name of a section of the bank's policy sheet -> its title, which is what the model writes.
TITLES = {passage.section: passage.title for passage in read_passages(DATA / "policy.en.md")}
# Four sections stand in no example: nobody could learn them here.
UNSEEN = ("safe_deposit_box", "student_account", "travel_insurance", "coin_counting")
TOPICS = tuple(title for section, title in TITLES.items() if section not in UNSEEN)


def ask(row: Mapping[str, Any], answer: str | None = None) -> list[Example]:
    """A message -> one of the topics."""
    return [choice(row, row["text"], TOPICS, answer, system=SYSTEM, task="topic")]


def examples(row: Mapping[str, Any]) -> list[Example]:
    """The same with the topic that is right."""
    return ask(row, TITLES[row["topic"]])


recipe = Recipe(
    checkpoint=SMOLLM2,
    data={split: DATA / "questions" / f"{split}.jsonl" for split in ("train", "validation", "test")},
    row_to_examples=examples,
    inference_examples=ask,
    methods=("lora",),
    head=("likelihood", "classes"),
    metrics=("accuracy", "macro_f1"),
    primary_metric="accuracy",
    baselines={"tfidf": tfidf},
    max_tokens=128,
    max_new_tokens=16,
    training=Training(num_train_epochs=4, batch_size=4, validations=4),
    settings={"lora": {"learning_rate": 2e-3, "r": 64, "lora_alpha": 128, **UPPER_ENDS}},
)
