"""Customer service of a retail bank: the model chooses the topic of a question, and answers from that topic's passage.

The question: how far does a small model get with both tasks at once, from 2,021 conversations, 2,847 questions and the
sheet? What we expect: figures that stand in the passage are read from it once the topic is found; most topics that
`finserve` was trained on are found; those of `test_unseen`, of which no question was ever seen, by their words alone.

How an answer is grounded. Each of the sheet's 47 sections is a passage. The model is trained to choose the section of a
question by likelihood (`topics`), and to answer with two sections in its prompt: the right one and that of the others
which BM25 finds first, two of three times in this order. When it is asked, it chooses first, and answers from its
choice and from what BM25 finds first beside that: the one knows the topics of its training, the other those that are
new.
The sheet's own statements are among the questions that it learns topics from, an index in the model's weights (Tay et
al. 2022, arXiv:2202.06991). The figures of passage and answer are others in training than in the sheet, so that they
are read and not remembered.

Data: `data/finserve/en`, `data/finserve/questions` and the policy sheet, written for this project; see their README for
how, and for their limits.
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from workbench import Grounding, Recipe, Training
from workbench.data import Example, Message, choice, conversation, with_other_figures
from workbench.evaluation.baselines import tfidf
from workbench.retrieval import Index, Passage, read_passages
from workbench.sources import SMOLLM2

DATA = Path(__file__).parent.parent / "data" / "finserve"
# What an agent is need not be said at length: a short prompt costs less at every step and in every answer.
SYSTEM = "Larkmoor Bank"
GROUPS = ("language", "topic")
# Where a block ends: LoRA learns as much there as in all layers, in less time.
ENDS = ["o_proj", "down_proj"]

sheet = read_passages(DATA / "policy.en.md")
titles = {statement.section: statement.title for statement in sheet}
passages = {
    title: f"{title}: {' '.join(statement.text for statement in sheet if statement.section == section)}"
    for section, title in titles.items()
}
search = Index([Passage(section=title, title=title, text=text) for title, text in passages.items()])


def said(messages: Sequence[Message]) -> str:
    """What the customer said so far."""
    return "\n".join(message["content"] for message in messages if message["role"] == "user")


def topic(name: str, question: str, answer: str | None = None) -> Example:
    """A question -> the section of the sheet that answers it."""
    return choice({"id": name}, question, passages, answer, system="Topic", task="topic")


def topics(row: Mapping[str, Any]) -> list[Example]:
    """The topic of every turn of a conversation, or of a single question."""
    if "text" in row:
        return [topic(row["id"], row["text"], titles[row["topic"]])]
    turns = conversation(row)
    return [topic(turn.id, said(turn.prompt), titles[row["topic"]]) for turn in turns]


def answers(row: Mapping[str, Any], ground: Callable[[Sequence[Message]], str] | None = None) -> list[Example]:
    """Every turn of the agent: the conversation so far -> what the agent says."""
    return conversation(row, system=SYSTEM, groups=GROUPS, ground=ground)


def searched(messages: Sequence[Message]) -> list[str]:
    """The titles of all sections that share a word with what the customer said, the nearest first."""
    return [passage.section for passage in search.nearest(said(messages), len(passages))]


def validation(row: Mapping[str, Any]) -> list[Example]:
    """Both tasks. Before the answer stand the right section and the one of the others that the search finds first.

    Two of three times the right one is in front, where the model's choice will stand.
    """
    right = titles[row["topic"]]

    def read(messages: Sequence[Message]) -> str:
        other = next((title for title in searched(messages) if title != right), None)
        shown = [right] if other is None else [right, other]
        if random.Random(said(messages)).random() < 1 / 3:
            shown.reverse()
        return "\n".join(passages[title] for title in shown)

    return [*answers(row, read), *topics(row)]


def training(row: Mapping[str, Any]) -> list[Example]:
    """The same, with other figures than the sheet's."""
    return topics(row) if "text" in row else list(map(with_other_figures, validation(row)))


def training_rows() -> Iterator[Mapping[str, Any]]:
    """The conversations, the short questions, and the statements of the sheet, by themselves and in pairs."""
    for path in (DATA / "en" / "train.jsonl", *sorted((DATA / "questions").glob("*.jsonl"))):
        with path.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)
    for number, statement in enumerate(sheet):
        yield {"id": f"sheet-{number}", "topic": statement.section, "text": statement.text}
    for number, (before, after) in enumerate(pairwise(sheet)):
        if before.section == after.section:
            text = f"{after.text} {before.text}"
            yield {"id": f"sheet-pair-{number}", "topic": before.section, "text": text}


recipe = Recipe(
    checkpoint=SMOLLM2,
    data={
        "train": training_rows,
        "validation": DATA / "en" / "validation.jsonl",
        "test": DATA / "en" / "test.jsonl",
        "test_unseen": DATA / "en" / "test_unseen.jsonl",
        "topics": DATA / "en" / "test.jsonl",
        "topics_unseen": DATA / "en" / "test_unseen.jsonl",
    },
    row_to_examples={
        "train": training,
        "validation": validation,
        **dict.fromkeys(("test", "test_unseen"), answers),
        **dict.fromkeys(("topics", "topics_unseen"), topics),
    },
    inference_examples=lambda row: conversation(row, system=SYSTEM)[-1:],
    grounding=Grounding(
        ask=lambda messages: topic("asked", said(messages)),
        passages=passages,
        search=searched,
    ),
    methods=("untuned", "lora"),
    metrics=("figures", "bleu", "chrf", "rouge_l", "accuracy", "perplexity"),
    primary_metric="figures",
    baselines={"tfidf": tfidf},
    max_tokens=640,
    max_new_tokens=88,
    training=Training(num_train_epochs=1, batch_size=8, validations=2),
    settings={
        "lora": {"learning_rate": 2e-3, "r": 128, "lora_alpha": 256, "target_modules": ENDS},
        "parallel": {"learning_rate": 2e-3, "bottleneck_size": 256},
    },
)
