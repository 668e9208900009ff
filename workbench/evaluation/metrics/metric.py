"""What a metric is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from workbench.evaluation.prediction import Prediction

Statistics = Callable[[Sequence[Prediction]], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A score of a set of answers that follows from sums over them.

    Statistics that add up make intervals cheap: a bootstrap sample is a sum of rows, and nothing is tokenized
    or matched twice.

    Attributes:
        name: as users write it.
        title: as the report prints it.
        summary: what it says, in a sentence.
        statistics: answers -> array of shape (answers, k).
        score: the sum of such rows, of shape (k,) -> value.
        higher_is_better: its direction.
        worst, best: its range; infinite where it has no bound.
        chance: its value for a model that guesses, where that is known.
        signature: answers -> how exactly it was computed.
        needs_all_choices: whether it hangs on how likely choices are that are neither the likeliest one nor the right
            one. Where no metric of a run does, most of very many choices need not be read.
        most_classes: of how many different choices at most it can be taken; None for any number.
        applies: whether an answer is one that can be scored so: written ones unless something else is said.
    """

    name: str
    title: str
    summary: str
    statistics: Statistics
    score: Callable[[np.ndarray], float]
    higher_is_better: bool
    worst: float
    best: float
    chance: float | None = None
    signature: Callable[[Sequence[Prediction]], str]
    needs_all_choices: bool = True
    most_classes: int | None = None
    applies: Callable[[Prediction], bool] = lambda answer: not answer.choices

    def value(self, answers: Sequence[Prediction]) -> float:
        """The score of `answers`."""
        return self.score(self.statistics(answers).sum(axis=0))
