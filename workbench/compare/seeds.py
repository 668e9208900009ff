"""What other seeds would have made of a method's score."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from workbench.evaluation import Metric, Prediction
from workbench.evaluation.intervals import RESAMPLES, by_source, groups_of, parts_of, resampled_sums, score_of
from workbench.results import Score, SeedsRecord

# A method whose seeds vary more than those of the others, by an F test at this level, stands for itself.
STANDS_APART = 0.02
# Blocks of items of which each is left out once to see how a score hangs on them.
BLOCKS = 200


@dataclass(frozen=True, kw_only=True)
class Between:
    """How the scores of a method differ between seeds.

    Attributes:
        variance: between single seeds.
        degrees: of freedom with which it is known.
        by_items: what of it is there because a seed answers some items otherwise and there are so many items only.
    """

    variance: float
    degrees: int
    by_items: float

    def by_seeds(self, certainty: float) -> float:
        """A variance that is not below the one that there were with endless items, as certain as is said."""
        from scipy.stats import chi2

        allowed = self.variance * self.degrees / float(chi2.ppf(1 - certainty, self.degrees))
        return max(0.0, allowed - self.by_items)

    def shifts(self, seeds: int, generator: np.random.Generator, draws: int = RESAMPLES) -> np.ndarray:
        """By what the mean score of so many other seeds might differ, of endless items: (draws,).

        The variance itself is drawn from those that the seeds which were seen allow (a generalized pivotal quantity,
        Weerahandi 1993), so that few seeds make it uncertain, as they should.
        """
        allowed = self.variance * self.degrees / generator.chisquare(self.degrees, draws)
        return np.asarray(generator.normal(size=draws) * np.sqrt(np.maximum(0.0, allowed - self.by_items) / seeds))


def seed_scores(metric: Metric, statistics: np.ndarray) -> np.ndarray:
    """The score of each seed: (seeds, items, k) -> (seeds,)."""
    return np.array([metric.score(sums) for sums in statistics.sum(axis=1)])


def between_seeds(
    metric: Metric, statistics: Mapping[str, np.ndarray], fixed: Collection[str] = ()
) -> dict[str, Between]:
    """How the scores of methods differ between seeds.

    Of two or three seeds of one method hardly anything is known; so the variances of all methods are taken together,
    as in an analysis of variance. But a method that varies by far more than the others keeps its own.

    Args:
        statistics: method -> (seeds, items, k), of the same items.
        fixed: methods that no seed changes.

    Returns:
        By method, of those that seeds change; none where no method has two seeds.
    """
    several = {name: rows for name, rows in statistics.items() if name not in fixed and len(rows) > 1}
    if not several:
        return {}
    own = {name: float(seed_scores(metric, rows).var(ddof=1)) for name, rows in several.items()}
    by_items = {name: _by_items(metric, rows) for name, rows in several.items()}
    degrees = {name: len(rows) - 1 for name, rows in several.items()}
    whole = sum(degrees.values())
    together = Between(
        variance=sum(degrees[name] * own[name] for name in own) / whole,
        degrees=whole,
        by_items=sum(degrees[name] * by_items[name] for name in own) / whole,
    )
    found = dict.fromkeys((name for name in statistics if name not in fixed), together)
    for name in several:
        others = whole - degrees[name]
        if not others:
            continue
        of_others = (together.variance * whole - own[name] * degrees[name]) / others
        if _is_apart(own[name], of_others, degrees[name], others):
            found[name] = Between(variance=own[name], degrees=degrees[name], by_items=by_items[name])
    return found


def _is_apart(variance: float, others: float, degrees: int, degrees_of_others: int) -> bool:
    from scipy.stats import f

    return variance > others * float(f.ppf(1 - STANDS_APART, degrees, degrees_of_others))


def _by_items(metric: Metric, statistics: np.ndarray) -> float:
    """The variance of seeds' scores that is there since each answers some items otherwise: interaction over items."""
    if statistics.shape[1] < 2:
        return 0.0
    values = jackknifed(metric, statistics)
    seeds, blocks = values.shape
    rest = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    return float((rest**2).sum() / ((blocks - 1) * (seeds - 1)) / blocks)


def jackknifed(metric: Metric, statistics: np.ndarray) -> np.ndarray:
    """What each item adds to the score of each seed, but for a constant of the seed: (seeds, items, k) -> (seeds, n).

    These are the jackknife's pseudo-values (Tukey 1958), whose mean varies as the score does, also of a score that is
    no mean; of many items, those of `BLOCKS` blocks of them.
    """
    blocks = min(statistics.shape[1], BLOCKS)
    sums = np.stack([statistics[:, block::blocks].sum(axis=1) for block in range(blocks)], axis=1)
    without = sums.sum(axis=1, keepdims=True) - sums
    return -(blocks - 1) * np.array([[metric.score(left) for left in of_seed] for of_seed in without])


def resampled_scores(metric: Metric, statistics: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Means over the seeds of scores of the same resampled items: method -> (resamples,)."""
    return {
        name: np.mean([[metric.score(sums) for sums in resampled_sums(rows)] for rows in of_seeds], axis=0)
        for name, of_seeds in statistics.items()
    }


def over_seeds(
    metrics: Sequence[Metric],
    answers: Mapping[str, Mapping[int, Sequence[Prediction]]],
    fixed: Collection[str] = (),
    groups: Sequence[str] | None = None,
) -> list[SeedsRecord]:
    """The scores of each method with all its seeds, see `SeedsRecord`.

    Each draw resamples the items, the same ones for every seed, and moves the mean by what other seeds might have.

    Args:
        answers: method -> seed -> answers to the same examples.
        fixed: methods that no seed changes.
        groups: by which scores are broken down; None takes all that the predictions name.
    """
    if groups is None:
        groups = groups_of([answer for of_seeds in answers.values() for answer in next(iter(of_seeds.values()))])
    scores: dict[str, dict[str, Score]] = {name: {} for name in answers}
    for metric in metrics:
        statistics: dict[str, dict[str, np.ndarray]] = {}
        for name, of_seeds in answers.items():
            for label, rows in _statistics(metric, list(of_seeds.values()), groups).items():
                statistics.setdefault(label, {})[name] = rows
        for label, of_methods in statistics.items():
            between = between_seeds(metric, of_methods, fixed)
            for name, rows in of_methods.items():
                scores[name][label] = score_with_seeds(metric, rows, between.get(name))
    return [SeedsRecord(method=name, seeds=list(answers[name]), metrics=found) for name, found in scores.items()]


def _statistics(
    metric: Metric, answers: Sequence[Sequence[Prediction]], groups: Sequence[str]
) -> dict[str, np.ndarray]:
    """Label -> (seeds, items, k), of what several seeds of a method answered."""
    parts = [parts_of(metric, of_seed, groups) for of_seed in answers]
    return {label: np.stack([by_source(*of_seed[label]) for of_seed in parts]) for label in parts[0]}


def score_with_seeds(metric: Metric, statistics: np.ndarray, between: Between | None) -> Score:
    """The mean score of several seeds, (seeds, items, k); `between` None where no seed changes it, or none is known."""
    each = seed_scores(metric, statistics)
    resampled = resampled_scores(metric, {"": statistics})[""]
    shifts = between.shifts(len(each), np.random.default_rng(0)) if between else 0.0
    score = score_of(metric, float(each.mean()), resampled, statistics.shape[1], shifts)
    return Score(
        value=score.value, low=score.low, high=score.high, sd=float(each.std(ddof=1)) if len(each) > 1 else None
    )
