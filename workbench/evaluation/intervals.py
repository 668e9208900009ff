"""Scores with bootstrap intervals: overall, by split and by group."""

import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np

from workbench.evaluation.metrics import Metric
from workbench.evaluation.prediction import Prediction
from workbench.results import Score

logger = logging.getLogger(__name__)

RESAMPLES = 1000
# Of a group, by which scores are broken down without being asked.
MOST_VALUES = 60
# Numbers of a resampling that are held at once.
TOGETHER = 2**23


def score_all(
    metrics: Sequence[Metric], predictions: Sequence[Prediction], groups: Sequence[str] | None = None
) -> dict[str, Score]:
    """Score `predictions` by every metric.

    Args:
        groups: by which scores are broken down; None takes all that the predictions name, but those of more than
            `MOST_VALUES` values.

    Returns:
        `bleu` for all predictions, `bleu[test]` for a split, and `bleu[language=zh]` for a value of a group; of each
        metric, where it applies to some prediction.
    """
    groups = groups_of(predictions) if groups is None else groups
    found: dict[str, Score] = {}
    for metric in metrics:
        for label, (statistics, sources) in parts_of(metric, predictions, groups).items():
            found[label] = interval(metric, by_source(statistics, sources))
    return found


def parts_of(
    metric: Metric, predictions: Sequence[Prediction], groups: Sequence[str]
) -> dict[str, tuple[np.ndarray, list[str]]]:
    """What the answers that a metric applies to add up to, over all, by split and by group; see `score_all`.

    Returns:
        Label -> statistics of shape (answers, k), and the source of each answer. Empty where it applies to none.
    """
    scored = [prediction for prediction in predictions if metric.applies(prediction)]
    if not scored:
        return {}
    statistics = metric.statistics(scored)
    parts: dict[str, list[int]] = {"": list(range(len(scored)))}
    for number, prediction in enumerate(scored):
        labels = [prediction.split]
        labels += [f"{name}={prediction.groups[name]}" for name in groups if name in prediction.groups]
        for label in labels:
            parts.setdefault(f"[{label}]", []).append(number)
    return {
        metric.name + label: (statistics[rows], [scored[row].resampled_as for row in rows])
        for label, rows in parts.items()
    }


def groups_of(predictions: Sequence[Prediction]) -> list[str]:
    """The groups that predictions name, in the order of their first appearance, without those of too many values."""
    values: dict[str, set[str]] = {}
    for prediction in predictions:
        for name, value in prediction.groups.items():
            values.setdefault(name, set()).add(value)
    for name, found in values.items():
        if len(found) > MOST_VALUES:
            logger.warning(
                "group %r has %d values: scores are not broken down by it, unless report_groups names it",
                name, len(found),
            )  # fmt: skip
    return [name for name, found in values.items() if len(found) <= MOST_VALUES]


def by_source(statistics: np.ndarray, sources: Sequence[str]) -> np.ndarray:
    """Sum the rows of `statistics` that share a source: (answers, k) -> (sources, k)."""
    numbers: Mapping[str, int] = {source: number for number, source in enumerate(dict.fromkeys(sources))}
    sums = np.zeros((len(numbers), statistics.shape[1]))
    np.add.at(sums, [numbers[source] for source in sources], statistics)
    return sums


def resampled_sums(statistics: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Sums of rows drawn with replacement: (n, k) -> (resamples, k). The same seed draws the same rows."""
    n = len(statistics)
    generator, shares = np.random.default_rng(seed), np.full(n, 1 / n)
    step = max(1, TOGETHER // n)
    parts = [
        generator.multinomial(n, shares, size=min(step, resamples - start)) @ statistics
        for start in range(0, resamples, step)
    ]
    return np.concatenate(parts)


def interval(metric: Metric, rows: np.ndarray) -> Score:
    """Percentile bootstrap over sources (Efron and Tibshirani 1993): 95 %, 1,000 resamples; safe for small samples.

    Of few sources resamples vary too little: the interval is widened around the value as Student's t widens one of
    the normal distribution. And a kind of source of which none was seen may make up to 1 - 0.025^(1/n) of all, which
    bounds a score that has a worst and a best value, as Clopper and Pearson (1934) bound a share of 0 or 1.

    Args:
        rows: statistics of each source, (sources, k); see `by_source`.
    """
    value = metric.score(rows.sum(axis=0))
    return score_of(metric, value, np.array([metric.score(sums) for sums in resampled_sums(rows)]), len(rows))


def score_of(metric: Metric, value: float, resampled: np.ndarray, n: int, shifts: float | np.ndarray = 0.0) -> Score:
    """A value with the interval that resamples of `n` sources give it; see `interval`.

    Args:
        resampled: (resamples,).
        shifts: what else may have made it another, of each resample.
    """
    low, high = bounds_of(value, resampled, n, shifts)
    least, most = sorted((metric.worst, metric.best))
    unseen = 1 - 0.025 ** (1 / n)
    # A sum of parts may be off a bound by rounding: the interval holds the value all the same.
    if math.isfinite(least):
        low = min(value, max(least, min(low, value - unseen * (value - least))))
    if math.isfinite(most):
        high = max(value, min(most, max(high, value + unseen * (most - value))))
    return Score(value=float(value), low=float(low), high=float(high))  # a bound may be a whole number


def bounds_of(value: float, resampled: np.ndarray, n: int, shifts: float | np.ndarray = 0.0) -> tuple[float, float]:
    """A 95 % interval of resamples of `n` sources, widened for few of them, and to hold the value.

    A resampled corpus score with a bias may miss it.
    """
    from scipy.stats import norm, t

    factor = 1.0 if n < 2 else float(t.ppf(0.975, n - 1) / norm.ppf(0.975)) * math.sqrt(n / (n - 1))
    low, high = map(float, np.percentile(value + factor * (resampled - value) + shifts, [2.5, 97.5]))
    return min(low, value), max(high, value)
