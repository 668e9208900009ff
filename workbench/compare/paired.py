"""Is one method better than another, or was it luck?"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from workbench.compare.power import Spread, least_p, plan
from workbench.compare.seeds import Between, between_seeds, resampled_scores, seed_scores
from workbench.evaluation import Metric, Prediction
from workbench.evaluation.intervals import RESAMPLES, TOGETHER, bounds_of, by_source
from workbench.results import Comparison

# Above this p-value, adjusted for the number of pairs, a difference is not told from luck.
LUCK = 0.05
# The smallest p-value there can be, times the number of pairs, must be well below what is held for luck.
EXCHANGES_A_PAIR = 60
# Of two differences that are the same but for the order in which numbers were added.
ROUNDING = 1e-9


def compare_methods(
    metric: Metric, split: str, answers: Mapping[str, Sequence[Sequence[Prediction]]], fixed: Collection[str] = ()
) -> list[Comparison]:
    """Compare every two methods by the examples of `split`, on which both are scored; see `compare_statistics`.

    Args:
        metric: by which they are compared.
        answers: method -> seeds -> answers.
        fixed: methods that no seed changes, such as the untuned checkpoint.
    """
    statistics = {}
    for name, of_seeds in answers.items():
        statistics[name] = np.stack([_by_item(metric, split, of_seed) for of_seed in of_seeds])
    return compare_statistics(metric, split, statistics, fixed)


def compare_statistics(
    metric: Metric, split: str, statistics: Mapping[str, np.ndarray], fixed: Collection[str] = ()
) -> list[Comparison]:
    """Compare every two methods, paired over the items, by the mean of the scores of their seeds.

    How large a difference is, is told by a paired bootstrap over the items (Koehn 2004). Whether it is luck is told by
    approximate randomization (Noreen 1989; Riezler and Maxwell 2005, aclanthology.org/W05-0908): if two methods are
    equally good, their answers to any item may be exchanged, those of all seeds at once. That holds for few items as
    for many, and for scores of a whole corpus. To each resampled and each exchanged difference is added what other
    seeds of the two methods might have changed, see `workbench.compare.seeds.Between`; that is known where some
    method has two seeds or more.

    Args:
        statistics: method -> (seeds, items, k), of the same items.
        fixed: methods that no seed changes.

    Returns:
        For each pair the difference of the scores (b minus a) with its 95 % interval, the two-sided p-value, and
        `p_adjusted` for the number of pairs (Holm 1979). No p-value is below that of all n differences having one
        sign by chance, 2 / 2^n, so that five examples never tell.
    """
    pairs = list(combinations(statistics, 2))
    values = {name: float(seed_scores(metric, rows).mean()) for name, rows in statistics.items()}
    resampled = resampled_scores(metric, statistics)
    between = between_seeds(metric, statistics, fixed)
    exchanges = max(RESAMPLES, EXCHANGES_A_PAIR * len(pairs))
    shifts = _shifts(statistics, between, exchanges)
    found = []
    for a, b in pairs:
        rows, items = (statistics[a], statistics[b]), statistics[a].shape[1]
        moved = shifts[b] - shifts[a]
        difference = values[b] - values[a]
        low, high = bounds_of(difference, resampled[b] - resampled[a], items, moved[:RESAMPLES])
        p = max(least_p(items), _p_of_exchanges(metric, *rows, difference, moved))
        one = Comparison(
            a=a,
            b=b,
            metric=metric.name,
            split=split,
            difference=difference,
            low=low,
            high=high,
            p=p,
            p_adjusted=p,
            items=items,
            seeds=max(map(len, rows)) if between else 1,
        )
        found.append(one)
    adjusted = holm([one.p for one in found])
    found = [replace(one, p_adjusted=p) for one, p in zip(found, adjusted, strict=True)]
    level = LUCK / max(1, len(pairs))
    return [
        plan(
            one,
            Spread.of(metric, (statistics[one.a], statistics[one.b]), (between.get(one.a), between.get(one.b))),
            level,
            told=one.p_adjusted <= LUCK,
        )
        for one in found
    ]


def _by_item(metric: Metric, split: str, answers: Sequence[Prediction]) -> np.ndarray:
    """Statistics of the answers that are scored: (items, k)."""
    chosen = [answer for answer in answers if answer.split == split and metric.applies(answer)]
    return by_source(metric.statistics(chosen), [answer.resampled_as for answer in chosen])


def _shifts(statistics: Mapping[str, np.ndarray], between: Mapping[str, Between], draws: int) -> dict[str, np.ndarray]:
    """By what other seeds might move the score of each method: method -> (draws,)."""
    generator = np.random.default_rng(1)
    return {
        name: between[name].shifts(len(rows), generator, draws) if name in between else np.zeros(draws)
        for name, rows in statistics.items()
    }


def _p_of_exchanges(metric: Metric, a: np.ndarray, b: np.ndarray, difference: float, moved: np.ndarray) -> float:
    """The share of exchanges of two methods' answers that make a difference as large as the one that was seen.

    Args:
        a, b: statistics of the same items, (seeds, items, k).
        moved: by what other seeds might move the difference, of each exchange.
    """
    if not math.isfinite(difference):
        return 1.0  # a score that can't be had tells nothing
    generator = np.random.default_rng(0)
    # Of different numbers of seeds, so many pairs that each seed stands in as many as its like.
    seeds = [(n % len(a), n % len(b)) for n in range(math.lcm(len(a), len(b)))]
    least = abs(difference) * (1 - ROUNDING)
    items = a.shape[1]
    step = max(1, TOGETHER // items)
    as_large = 0
    for start in range(0, len(moved), step):
        some = moved[start : start + step]
        exchanged = generator.integers(0, 2, size=(len(some), items), dtype=np.int8)
        seen = some.copy()
        for of_a, of_b in seeds:
            changes = exchanged @ (b[of_b] - a[of_a])
            sums_a, sums_b = a[of_a].sum(axis=0) + changes, b[of_b].sum(axis=0) - changes
            scores = [metric.score(y) - metric.score(x) for x, y in zip(sums_a, sums_b, strict=True)]
            seen += np.array(scores) / len(seeds)
        as_large += int((np.abs(seen) >= least).sum())
    # The answers as they were given are one of the exchanges: a p-value of zero can't be shown by some of them.
    return (as_large + 1) / (len(moved) + 1)


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
