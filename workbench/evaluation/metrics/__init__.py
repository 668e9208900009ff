"""Metrics by name. To add one, put a module with a tuple `METRICS` in this folder; it is found by being there.

A recipe may bring metrics of its own: `Metric` objects beside names. Another package adds its own by an entry point of
the group `workbench.metrics`, see `workbench.plugins`.
"""

from collections.abc import Iterable, Sequence
from functools import cache

from workbench.errors import UserError, unknown
from workbench.evaluation.metrics.metric import Metric
from workbench.plugins import registered

__all__ = ["Metric", "find_metric", "find_metrics", "known_metrics"]


@cache
def known_metrics() -> dict[str, Metric]:
    """All metrics, by name, in the order of the modules of this folder; those of other packages behind them.

    Raises:
        UserError: another package's metric can't be loaded, or has a name that is taken.
    """
    return registered(__name__, __path__, "METRICS", Metric, "workbench.metrics")


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
