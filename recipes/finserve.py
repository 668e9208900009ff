"""Customer service of a retail bank, in English: find what a question is about, read that section of the sheet, answer.

The question: which method answers best from what it is given to read, and how often is that the right thing to read?
What we expect: the untuned model answers fluently and beside the point; tuned ones give the section's figures where it
is the right one; on topics that nobody was trained on (`test_unseen`), where no answer can be looked up, fewer.

How an answer is grounded: understand the question, match the best answers, search for what is new. Each of the sheet's
47 sections is a passage. `SectionFinder` knows 43 of them by the questions of 4,188 conversations; the others it can
only search for by the words that they are written in. What it finds stands in the prompt of every answer, when the
model is scored and in `chat`, and below it the two nearest questions about that section that were answered before, with
their answers. In training the section is the right one, and a quarter of the examples have no earlier answers. The
figures of section and answers are others than the sheet's wherever that leaves all of them true, so that the model
learns to read them and not to remember them. Scores are broken down by whether the section was the right one
(`section`).

Data: `data/finserve`, written for this project; see its README for how, and for its limits.
"""

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from workbench import Recipe, Training
from workbench.data import Example, Message, conversation, with_other_figures
from workbench.evaluation.metrics.figures import figures
from workbench.retrieval import Passage, SectionFinder, read_sections
from workbench.sources import SMOLLM2

DATA = Path(__file__).parent.parent / "data" / "finserve"
ANSWERED = [DATA / "en" / "train.jsonl", DATA / "en" / "train_short.jsonl"]
# What an agent is need not be said at length: a short prompt costs less at every step and in every answer.
SYSTEM = "Larkmoor Bank"
# Earlier answers that are read, and the share of training examples that have none, as a new section has none.
EARLIER, ALONE = 2, 0.25
# The upper half of SmolLM2's 30 layers; for another checkpoint other numbers, or none.
UPPER = list(range(15, 30))
# Where a block ends: there LoRA learns as much as everywhere, in less time.
UPPER_ENDS = {"target_modules": ["o_proj", "down_proj"], "layers_to_transform": UPPER}

Row = Mapping[str, Any]
SECTIONS = {section.section: section for section in read_sections(DATA / "policy.en.md")}


def answered() -> Iterator[Row]:
    """The conversations that are trained on, and whose answers are looked up."""
    for path in ANSWERED:
        with path.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def asked(messages: Sequence[Message]) -> list[str]:
    """What the customer said."""
    return [message["content"] for message in messages if message["role"] == "user"]


class Knowledge:
    """What answers are drawn from: the sections of the sheet, and what was answered before."""

    def __init__(self) -> None:
        self.answered = [turn for row in answered() for turn in conversation(row, groups=("topic",))]
        known = [("\n".join(asked(turn.prompt)), turn.groups["topic"]) for turn in self.answered]
        self.sections = SectionFinder(list(SECTIONS.values()), known)

    def section(self, messages: Sequence[Message]) -> Passage:
        """The section that a conversation is about, as far as it can be found."""
        return self.sections.find("\n".join(asked(messages)))

    def earlier(self, messages: Sequence[Message], section: Passage) -> Iterator[Example]:
        """What was asked and answered about a section, the nearest to the last question first."""
        return map(self.answered.__getitem__, self.sections.asked_before(asked(messages)[-1], section.section))


knowledge = cache(Knowledge)


def reading(section: Passage, earlier: Iterable[Example]) -> str:
    """What stands in the prompt: a section, and the nearest of the earlier questions and answers, the nearest last."""
    nearest = list(islice(earlier, EARLIER))
    return "\n".join([str(section), *(f"Q: {asked(one.prompt)[-1]}\nA: {one.completion}" for one in reversed(nearest))])


def found(messages: Sequence[Message]) -> str:
    """What is read for a new question."""
    section = knowledge().section(messages)
    return reading(section, knowledge().earlier(messages, section))


def examples(row: Row) -> list[Example]:
    """Every turn of the agent: what is found to read and the conversation so far -> what the agent says."""
    turns = conversation(row, system=SYSTEM, groups=("language", "topic"), ground=found)
    right = [knowledge().section(turn.prompt).section == row["topic"] for turn in turns]
    return [
        replace(turn, groups={**turn.groups, "section": "right" if is_right else "another"})
        for turn, is_right in zip(turns, right, strict=True)
    ]


def training(row: Row) -> list[Example]:
    """The same with the right section, and where that leaves everything true with other figures."""
    section = SECTIONS[row["topic"]]

    def turns(is_read: Callable[[Example], bool]) -> list[Example]:
        def right(messages: Sequence[Message]) -> str:
            alone = random.Random(f"{row['id']} {len(messages)}").random() < ALONE
            earlier = () if alone else knowledge().earlier(messages, section)
            return reading(section, (one for one in earlier if one.source != row["id"] and is_read(one)))

        return conversation(row, system=SYSTEM, ground=right)

    usual = turns(lambda one: True)
    plain = turns(lambda one: names_only_figures_of(one, section))
    changed = map(with_other_figures, plain)
    return [other if other != same else turn for turn, same, other in zip(usual, plain, changed, strict=True)]


def names_only_figures_of(one: Example, section: Passage) -> bool:
    """Whether an earlier answer names no figures but the section's, and its question none."""
    question, answer, known = map(figures_in, (asked(one.prompt)[-1], one.completion, section.text))
    return not question and answer <= known


@cache
def figures_in(text: str) -> frozenset[object]:
    """What figures a text has: each text is asked for once for every question that may be read beside it."""
    return frozenset(figures(text))


recipe = Recipe(
    checkpoint=SMOLLM2,
    data={
        "train": answered,
        **{split: DATA / "en" / f"{split}.jsonl" for split in ("validation", "test", "test_unseen")},
    },
    row_to_examples={"train": training, **dict.fromkeys(("validation", "test", "test_unseen"), examples)},
    inference_examples=lambda row: conversation(row, system=SYSTEM, ground=found)[-1:],
    methods=("untuned", "lora", "parallel"),
    metrics=("figures", "bleu", "chrf", "rouge_l", "perplexity"),
    primary_metric="figures",
    max_tokens=640,
    max_new_tokens=88,
    training=Training(num_train_epochs=1, batch_size=4, validations=2),
    settings={
        "full": {"learning_rate": 3e-4},
        "lora": {"learning_rate": 2e-3, "r": 128, "lora_alpha": 256, **UPPER_ENDS},
        "rslora": {"learning_rate": 2e-3, "r": 128, "lora_alpha": 22, **UPPER_ENDS},
        "dora": {"learning_rate": 2e-3, "r": 128, "lora_alpha": 256, **UPPER_ENDS},
        "adalora": {"learning_rate": 4e-3, "init_r": 192, "target_r": 128, "lora_alpha": 256, **UPPER_ENDS},
        "houlsby": {"learning_rate": 2e-3, "bottleneck_size": 256, "layers_to_transform": UPPER},
        "pfeiffer": {"learning_rate": 2e-3, "bottleneck_size": 512, "layers_to_transform": UPPER},
        "parallel": {"learning_rate": 2e-3, "bottleneck_size": 256, "layers_to_transform": UPPER},
        "ia3": {"learning_rate": 3e-2},
        "prompt": {"learning_rate": 3e-2},
        "ptuning": {"learning_rate": 3e-3},
    },
)
