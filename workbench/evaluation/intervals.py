"""Scores with bootstrap intervals: overall, by split and by group."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from workbench.evaluation.metrics import Metric
from workbench.evaluation.prediction import Prediction

RESAMPLES = 1000
# Numbers of a resampling that are held at once.
TOGETHER = 2**23


@dataclass(frozen=True, kw_only=True)
class Score:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


def score_all(
    metrics: Sequence[Metric], answers: Sequence[Prediction], groups: Sequence[str] = ("language",)
) -> dict[str, Score]:
    """Score `answers` by every metric.

    Returns:
        `bleu` for all answers, `bleu[test]` for a split, and `bleu[zh]` for a value of one of `groups`; of each
        metric, where it applies to some answer.
    """
    scores: dict[str, Score] = {}
    for metric in metrics:
        scored = [answer for answer in answers if metric.applies(answer)]
        if not scored:
            continue
        statistics = metric.statistics(scored)
        parts: dict[str, list[int]] = {"": list(range(len(scored)))}
        for number, answer in enumerate(scored):
            labels = [answer.split, *(answer.groups[name] for name in groups if name in answer.groups)]
            for label in dict.fromkeys(labels):
                parts.setdefault(f"[{label}]", []).append(number)
        for label, rows in parts.items():
            sources = [scored[row].resampled_as for row in rows]
            scores[metric.name + label] = interval(metric, statistics[rows], sources)
    return scores


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


def interval(metric: Metric, statistics: np.ndarray, sources: Sequence[str]) -> Score:
    """Percentile bootstrap over sources (Efron and Tibshirani 1993): 95 %, 1,000 resamples.

    The interval is widened to hold the value itself, which a resampled corpus score with a bias may miss.
    """
    rows = by_source(statistics, sources)
    value = metric.score(rows.sum(axis=0))
    low, high = np.percentile([metric.score(sums) for sums in resampled_sums(rows)], [2.5, 97.5])
    return Score(value=value, low=min(float(low), value), high=max(float(high), value))
