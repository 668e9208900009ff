"""Answers of all methods beside each other: what each scores, and in what it differs from the reference."""

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workbench.evaluation import Metric, Prediction

# Questions that a report shows, evenly spread over all that were asked.
SHOWN = 200
# Words, single Chinese characters, and whatever stands between them.
WORDS = re.compile(r"[぀-ヿ一-鿿]|[^\W_぀-ヿ一-鿿]+|\s+|.", re.DOTALL)
SAME, MORE, MISSING = "same", "more", "missing"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a method said.

    Attributes:
        method: its name.
        text: the answer.
        parts: what of it stands in the reference, what doesn't, and what of the reference is missing: (kind, text) one
            after another; empty where the method chose.
        scores: metric -> what this answer alone scores.
    """

    method: str
    text: str
    parts: Sequence[tuple[str, str]]
    scores: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Question:
    """What was asked, and everybody's answer.

    Attributes:
        id, split: of the example.
        prompt: the exact text that the models were given.
        reference: what should have been said.
        answers: in the order of the table.
    """

    id: str
    split: str
    prompt: str
    reference: str
    answers: Sequence[Answer]

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """Metric -> method -> score."""
        names = dict.fromkeys(name for answer in self.answers for name in answer.scores)
        return {name: {one.method: one.scores[name] for one in self.answers if name in one.scores} for name in names}


def questions(answers: Mapping[str, Sequence[Prediction]], metrics: Sequence[Metric]) -> list[Question]:
    """Some of the questions that every method answered.

    Args:
        answers: method -> what it said to each.
        metrics: by which each answer is scored alone.
    """
    if not answers:
        return []
    by_id = {method: {(one.split, one.id): one for one in given} for method, given in answers.items()}
    first = next(iter(by_id.values()))
    keys = [key for key in first if all(key in given for given in by_id.values())]
    keys = keys[:: max(1, math.ceil(len(keys) / SHOWN))]
    scores = {method: _scores([given[key] for key in keys], metrics) for method, given in by_id.items()}
    return [
        Question(
            id=key[1],
            split=key[0],
            prompt=first[key].prompt,
            reference=first[key].reference,
            answers=[
                Answer(
                    method=method,
                    text=given[key].prediction,
                    parts=[] if given[key].choices else differences(given[key].prediction, given[key].reference),
                    scores=scores[method][number],
                )
                for method, given in by_id.items()
            ],
        )
        for number, key in enumerate(keys)
    ]


def differences(text: str, reference: str) -> list[tuple[str, str]]:
    """In what a text differs from a reference, word by word: see `Answer.parts`.

    What they have in common between two changes counts only if it is more than a word.
    """
    said, right = WORDS.findall(text), WORDS.findall(reference)
    found = difflib.SequenceMatcher(None, said, right, False).get_opcodes()
    parts: list[tuple[str, str]] = []
    more, missing = "", ""
    for number, (kind, begin, end, right_begin, right_end) in enumerate(found):
        between = 0 < number < len(found) - 1
        words = sum(not word.isspace() for word in said[begin:end])
        if kind == "equal" and (words > 1 or not between):
            parts += [(MORE, more), (MISSING, missing), (SAME, "".join(said[begin:end]))]
            more, missing = "", ""
        else:
            more += "".join(said[begin:end])
            missing += "".join(right[right_begin:right_end])
    parts += [(MORE, more), (MISSING, missing)]
    return [(kind, part) for kind, part in parts if part]


def _scores(answers: Sequence[Prediction], metrics: Sequence[Metric]) -> list[dict[str, float]]:
    """Metric -> score, of each answer alone."""
    found: list[dict[str, float]] = [{} for _ in answers]
    for metric in metrics:
        numbers = [number for number, answer in enumerate(answers) if metric.applies(answer)]
        if not numbers:
            continue
        rows = metric.statistics([answers[number] for number in numbers])
        for number, row in zip(numbers, rows, strict=True):
            value = metric.score(row)
            if math.isfinite(value):
                found[number][metric.name] = round(float(value), 3)
    return found
