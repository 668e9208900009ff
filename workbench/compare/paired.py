"""Is one method better than another, or was it luck?"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from workbench.evaluation import Metric, Prediction
from workbench.evaluation.intervals import RESAMPLES, TOGETHER, by_source, resampled_sums, widened
from workbench.results import Comparison

# The smallest p-value there can be, times the number of pairs, must be well below what is held for luck.
EXCHANGES_A_PAIR = 60
# Of two differences that are the same but for the order in which numbers were added.
ROUNDING = 1e-9


def compare_methods(
    metric: Metric, split: str, answers: Mapping[str, Sequence[Sequence[Prediction]]]
) -> list[Comparison]:
    """Compare every two methods by the examples of `split`, on which both are scored.

    Whether a difference is luck is told by approximate randomization (Noreen 1989; Riezler and Maxwell 2005,
    aclanthology.org/W05-0908): if two methods are equally good, their answers to any example may be exchanged. That
    holds for few examples as for many, and for scores of a whole corpus. How large the difference is, is told by a
    paired bootstrap (Koehn 2004). Several seeds of a method are scored together.

    Args:
        metric: by which they are compared.
        answers: method -> seeds -> answers.

    Returns:
        For each pair the difference of the scores (b minus a) with its 95 % interval, the two-sided p-value, and
        `p_adjusted` for the number of pairs (Holm 1979). No p-value is below that of all n differences having one
        sign by chance, 2 / 2^n, so that five examples never tell.
    """
    pairs = list(combinations(answers, 2))
    rows: dict[str, np.ndarray] = {}
    for method, seeds in answers.items():
        chosen = [[answer for answer in seed if answer.split == split and metric.applies(answer)] for seed in seeds]
        summed = sum(by_source(metric.statistics(seed), [a.resampled_as for a in seed]) for seed in chosen)
        assert isinstance(summed, np.ndarray)
        rows[method] = summed
    resampled = {name: np.array([metric.score(sums) for sums in resampled_sums(rows[name])]) for name in rows}
    values = {name: metric.score(rows[name].sum(axis=0)) for name in rows}
    exchanges = max(RESAMPLES, EXCHANGES_A_PAIR * len(pairs))
    found = []
    for a, b in pairs:
        items, difference = len(rows[a]), values[b] - values[a]
        low, high = widened(difference, np.percentile(resampled[b] - resampled[a], [2.5, 97.5]), items)
        p = max(least_p(items), _p_of_exchanges(metric, rows[a], rows[b], difference, exchanges))
        found.append(
            Comparison(
                a=a, b=b, metric=metric.name, split=split, difference=difference, low=low, high=high, p=p, p_adjusted=p,
                items=items,
            )
        )  # fmt: skip
    adjusted = holm([one.p for one in found])
    return [replace(one, p_adjusted=p) for one, p in zip(found, adjusted, strict=True)]


def _p_of_exchanges(metric: Metric, a: np.ndarray, b: np.ndarray, difference: float, exchanges: int) -> float:
    """The share of exchanges of two methods' answers that make a difference as large as the one that was seen.

    Args:
        a, b: statistics of the same sources, (sources, k).
    """
    generator = np.random.default_rng(0)
    change, of_a, of_b = b - a, a.sum(axis=0), b.sum(axis=0)
    least = abs(difference) * (1 - ROUNDING)
    step = max(1, TOGETHER // len(a))
    as_large = 0
    for start in range(0, exchanges, step):
        exchanged = generator.integers(0, 2, size=(min(step, exchanges - start), len(a)), dtype=np.int8) @ change
        as_large += sum(
            abs(metric.score(sums_b) - metric.score(sums_a)) >= least
            for sums_a, sums_b in zip(of_a + exchanged, of_b - exchanged, strict=True)
        )
    # The answers as they were given are one of the exchanges: a p-value of zero can't be shown by some of them.
    return (as_large + 1) / (exchanges + 1)


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
