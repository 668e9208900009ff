"""What a metric is, and its form as an `evaluate.Metric`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import evaluate
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


class EvaluateMetric(evaluate.Metric):
    """A text metric under the interface of the `evaluate` library; needs no hub.

    >>> EvaluateMetric(find_metric("bleu")).compute(predictions=["a b c d"], references=["a b c d"])
    {'bleu': 100.0}
    """

    def __init__(self, metric: Metric, language: str = "en", **kwargs: Any) -> None:
        self.metric = metric
        self.language = language
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        strings = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
        return evaluate.MetricInfo(
            description=self.metric.summary,
            citation="",
            inputs_description="predictions and references: lists of strings of the same length",
            features=strings,
        )

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        answers = [
            Prediction(
                id=str(number),
                split="",
                prompt="",
                reference=reference,
                prediction=prediction,
                nll=float("nan"),
                tokens=0,
                groups={"language": self.language},
            )
            for number, (prediction, reference) in enumerate(zip(predictions, references, strict=True))
        ]
        return {self.metric.name: self.metric.value(answers)}
