"""A metric in the form of an `evaluate.Metric`, for code that takes such; a run does without that library's imports."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from workbench.evaluation.metrics.metric import Metric
from workbench.evaluation.prediction import Prediction


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
