"""Metrics by name. To add one, write its function in a module of this folder and list it in `METRICS` there."""

from functools import cache

from workbench.errors import unknown
from workbench.evaluation.metrics import choice, figures, grounded, likelihood, text
from workbench.evaluation.metrics.metric import EvaluateMetric, Metric

__all__ = ["EvaluateMetric", "Metric", "find_metric", "known_metrics"]


@cache
def known_metrics() -> dict[str, Metric]:
    """All metrics, by name."""
    return {
        metric.name: metric for module in (text, figures, likelihood, choice, grounded) for metric in module.METRICS
    }


def find_metric(name: str) -> Metric:
    """The metric called `name`.

    Raises:
        UserError: there is none; the nearest names and all names are in the message.
    """
    metrics = known_metrics()
    if name not in metrics:
        raise unknown("metric", name, metrics)
    return metrics[name]
