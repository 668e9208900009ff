"""Is one method better than another, or was it luck?"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from workbench.evaluation import Metric, Prediction
from workbench.evaluation.intervals import RESAMPLES, by_source, resampled_sums
from workbench.results import Comparison

# The smallest p-value there can be, times the number of pairs, must be well below what is held for luck.
RESAMPLES_A_PAIR = 200


def compare_methods(
    metric: Metric, split: str, answers: Mapping[str, Sequence[Sequence[Prediction]]]
) -> list[Comparison]:
    """Compare every two methods by a paired bootstrap over the examples of `split` (Koehn 2004).

    Both methods are scored on the same resampled examples; several seeds of a method are scored together.

    Args:
        metric: by which they are compared.
        answers: method -> seeds -> answers.

    Returns:
        For each pair the difference of the scores (b minus a) with its 95 % interval, the two-sided p-value, and
        `p_adjusted` for the number of pairs (Holm 1979). Of very few examples no resample differs from the others: no
        p-value is below that of all n differences having one sign by chance, 2 / 2^n, so that five never tell.
    """
    pairs = list(combinations(answers, 2))
    resamples = max(RESAMPLES, RESAMPLES_A_PAIR * len(pairs))
    sums: dict[str, np.ndarray] = {}
    values: dict[str, float] = {}
    items = 0
    for method, seeds in answers.items():
        chosen = [[answer for answer in seed if answer.split == split and metric.applies(answer)] for seed in seeds]
        rows = sum(by_source(metric.statistics(seed), [a.resampled_as for a in seed]) for seed in chosen)
        assert isinstance(rows, np.ndarray)
        items = len(rows)
        values[method] = metric.score(rows.sum(axis=0))
        sums[method] = np.array([metric.score(resample) for resample in resampled_sums(rows, resamples)])
    found = []
    for a, b in pairs:
        differences = sums[b] - sums[a]
        low, high = np.percentile(differences, [2.5, 97.5])
        # One is added on both sides: a p-value of zero can't be shown by resamples.
        tail = min((differences <= 0).sum(), (differences >= 0).sum()) + 1
        difference = values[b] - values[a]
        p = min(1.0, max(least_p(items), 2 * float(tail) / (len(differences) + 1)))
        found.append(
            Comparison(
                a=a,
                b=b,
                metric=metric.name,
                split=split,
                difference=difference,
                low=min(float(low), difference),
                high=max(float(high), difference),
                p=p,
                p_adjusted=p,
                items=items,
            )
        )
    adjusted = holm([one.p for one in found])
    return [replace(one, p_adjusted=p) for one, p in zip(found, adjusted, strict=True)]


def least_p(items: int) -> float:
    """The p-value of all differences of so many examples having one sign: none is smaller."""
    return min(1.0, 2.0 ** (1 - items))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number, in their order (Holm 1979)."""
    adjusted = [1.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the points that no other beats in both cost (lower) and quality (higher)."""
    return [
        name
        for name, (cost, quality) in points.items()
        if not any(
            other_cost <= cost and other_quality >= quality and (other_cost, other_quality) != (cost, quality)
            for other_cost, other_quality in points.values()
        )
    ]
