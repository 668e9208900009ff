"""What it would take to tell two methods apart."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from workbench.compare.seeds import Between, jackknifed
from workbench.evaluation import Metric
from workbench.results import Comparison

# So many of 100 comparisons find a difference that is said to be found.
POWER = 0.8
DRAWS = 8000
# In which the smallest difference is found, or there is none: of a handful of items none is told.
ROUNDS = 100
# More than these nobody has.
MOST_ITEMS, MOST_SEEDS = 1_000_000, 50


@dataclass(frozen=True, kw_only=True)
class Side:
    """Why the score of one of two methods is uncertain, where seeds change it: variances.

    Attributes:
        seeds: that there are.
        degrees: of freedom with which the variance between seeds is known, for each seed behind the first.
        by_seeds: of a seed's score, of endless items; most likely it is smaller, so that a plan is kept.
        by_both: of a seed's answer to one item, around what is usual for the seed and for the item.
    """

    seeds: int
    degrees: float
    by_seeds: float
    by_both: float


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Why the difference of two methods is uncertain.

    Attributes:
        items: that there are.
        by_items: variance of the difference at one item, by which items there are alone.
        sides: the methods that seeds change, as far as that is known.
    """

    items: int
    by_items: float
    sides: tuple[Side, ...]

    @classmethod
    def of(
        cls, metric: Metric, statistics: tuple[np.ndarray, np.ndarray], between: tuple[Between | None, Between | None]
    ) -> "Spread":
        """Of two methods' statistics, (seeds, items, k) each, and how each varies between seeds, where it does."""
        from scipy.stats import chi2

        items = statistics[0].shape[1]
        sides = tuple(
            Side(
                seeds=len(rows),
                degrees=one.degrees / max(1, len(rows) - 1),
                by_seeds=one.by_seeds(POWER),
                by_both=one.by_items * items,
            )
            for rows, one in zip(statistics, between, strict=True)
            if one is not None
        )
        whole = 0.0
        if items > 1:
            a, b = (jackknifed(metric, rows).mean(axis=0) for rows in statistics)
            blocks = len(a)
            # As of seeds, at the upper end of what so many allow: half of all plain estimates are too small.
            upper = (blocks - 1) / float(chi2.ppf(1 - POWER, blocks - 1))
            whole = upper * float((b - a).var(ddof=1)) / blocks * items
        shared = sum(side.by_both / side.seeds for side in sides)
        return cls(items=items, by_items=max(0.0, whole - shared), sides=sides)

    @property
    def seeds(self) -> int:
        """Of the method that has more of them; 0 where seeds change neither, as far as that is known."""
        return max((side.seeds for side in self.sides), default=0)

    def detectable(self, level: float, items: int | None = None, seeds: int | None = None) -> float:
        """The smallest difference that `POWER` of such comparisons tell from luck; infinite where none is.

        Args:
            level: below which a p-value tells.
            items: how many; None for those that there are.
            seeds: likewise, of each method that seeds change.
        """
        from scipy.stats import norm

        items = items or self.items
        if least_p(items) > level:
            return math.inf
        sides = [replace(side, seeds=seeds or side.seeds) for side in self.sides]
        generator = np.random.default_rng(0)
        by_chance = generator.normal(size=DRAWS)
        of_items = (self.by_items + sum(side.by_both / side.seeds for side in sides)) / items
        of_seeds, moved = 0.0, np.zeros(DRAWS)
        for side in sides:
            by_items = side.by_both / items
            degrees = max(1, round(side.degrees * (side.seeds - 1)))
            one = Between(variance=side.by_seeds + by_items, degrees=degrees, by_items=by_items)
            moved += one.shifts(side.seeds, generator, DRAWS)
            of_seeds += side.by_seeds / side.seeds
        beyond = float(norm.ppf(POWER)) * math.sqrt(of_items + of_seeds)
        found = 0.0
        for _ in range(ROUNDS):
            # Exchanging the answers of two methods that do differ varies by their difference, too.
            luck = by_chance * math.sqrt(of_items + found**2 / items) + moved
            before, found = found, float(np.quantile(np.abs(luck), 1 - level)) + beyond
            if found - before <= 0.001 * found:
                return found
        return math.inf


def least_p(items: int) -> float:
    """The p-value of all differences of so many examples having one sign: none is smaller."""
    return min(1.0, 2.0 ** (1 - items))


def plan(one: Comparison, spread: Spread, level: float, told: bool) -> Comparison:
    """The comparison, with what it could have told, and what it would take to tell a difference as large as this one.

    Args:
        level: below which a p-value tells.
        told: whether this one did.
    """
    detectable = spread.detectable(level)
    one = replace(one, detectable=detectable if math.isfinite(detectable) else None)
    if told or not one.difference:
        return one
    wanted, items, seeds = abs(one.difference), spread.items, spread.seeds
    if not seeds:
        return replace(one, items_to_tell=_least(lambda n: spread.detectable(level, n) <= wanted, items, MOST_ITEMS))
    # More of both at once: whatever of the variance is due to which, it becomes smaller.
    both = _least(lambda n: spread.detectable(level, -(-items * n // seeds), n) <= wanted, seeds, MOST_SEEDS)
    return replace(
        one,
        seeds_to_tell=both,
        items_to_tell=None if both is None else -(-items * both // seeds),
    )


def _least(enough: Callable[[int], bool], begin: int, most: int) -> int | None:
    """The least number of at least `begin` that is enough, to a hundredth; None where none of at most `most` is."""
    if not enough(most):
        return None
    low, high = begin, begin
    while not enough(high):
        low, high = high, min(most, 2 * high)
    while high - low > max(1, low // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
