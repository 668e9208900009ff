"""Metrics by name. To add one, write its function in a module of this folder and list it in `METRICS` there.

A recipe may bring metrics of its own as well: `Metric` objects beside names.
"""

from collections.abc import Iterable, Sequence
from functools import cache

from workbench.errors import UserError, unknown
from workbench.evaluation.metrics import choice, figures, likelihood, text
from workbench.evaluation.metrics.metric import EvaluateMetric, Metric

__all__ = ["EvaluateMetric", "Metric", "find_metric", "find_metrics", "known_metrics"]


@cache
def known_metrics() -> dict[str, Metric]:
    """All metrics, by name."""
    return {metric.name: metric for module in (text, figures, likelihood, choice) for metric in module.METRICS}


def find_metric(name: str, of_recipe: Iterable[str | Metric] = ()) -> Metric:
    """The metric called `name`.

    Args:
        of_recipe: a recipe's metrics; those that are not names are looked through first.

    Raises:
        UserError: there is none; the nearest names and all names are in the message.
    """
    own = {metric.name: metric for metric in of_recipe if isinstance(metric, Metric)}
    metrics = {**known_metrics(), **own}
    if name not in metrics:
        raise unknown("metric", name, metrics)
    return metrics[name]


def find_metrics(of_recipe: Sequence[str | Metric]) -> list[Metric]:
    """The metrics of a recipe, each once: names are looked up, metrics of its own are taken as they are.

    Raises:
        UserError: an unknown name, something that is neither a name nor a metric, or two metrics of one name.
    """
    for metric in of_recipe:
        if not isinstance(metric, str | Metric):
            raise UserError(f"metrics: {metric!r} is neither a metric's name nor a workbench.evaluation.Metric")
    own = [metric.name for metric in of_recipe if isinstance(metric, Metric)]
    if twice := {name for name in own if own.count(name) > 1}:
        raise UserError(f"metrics: several are called {', '.join(sorted(twice))}; give each a name of its own")
    found = [metric if isinstance(metric, Metric) else find_metric(metric, of_recipe) for metric in of_recipe]
    return list({metric.name: metric for metric in found}.values())
