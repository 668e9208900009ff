"""Do the comparisons keep their word? Simulated ones, of methods whose true scores are known.

    python benchmarks/comparisons.py                    all of it: 1,000 comparisons of each kind, twenty minutes
    python benchmarks/comparisons.py --comparisons 50   a quick look

A simulated method answers items that are hard or easy for every method, each a little otherwise; its seeds are better
or worse as a whole, and differ item by item. One of the methods has no seeds, as the untuned checkpoint. Sizes are
those of finserve: 46 conversations with one to four figures each, or so many headlines in three classes.

Printed for each kind: how often identical methods are called different (any pair, adjusted for their number), and how
often the 95 % intervals hold the true score and the true difference; how often a planted difference is found that is
said to be found in 80 of 100; and how often it is found with as many items, or seeds, as were said to tell it.
"""

import argparse
import math
import multiprocessing
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing.pool import Pool

import numpy as np
from scipy.stats import norm

from workbench.compare.paired import LUCK, compare_statistics
from workbench.compare.power import POWER
from workbench.compare.seeds import between_seeds, score_with_seeds
from workbench.evaluation import Metric, find_metric
from workbench.results import Comparison

FIXED = "untuned"
# Standard deviation of what is hard about a single figure.
OF_A_FIGURE = 0.5
# Differences below these points, and numbers above these, are not tried.
LEAST, MOST = 2.0, 5000


@dataclass(frozen=True, kw_only=True)
class World:
    """Of what methods the comparisons are.

    Attributes:
        metric: "figures", of one to four figures an item; "macro_f1", of three classes.
        items, seeds: that a comparison has; seeds of each method but the untuned one.
        methods: how many that have seeds.
        between: standard deviation of seeds, beside that of the difficulty of items, which is 1; by method.
        by_method, by_both: likewise of what is hard for one method only, and for one seed only.
        ahead: by how much the last method is better.
    """

    metric: str = "figures"
    items: int = 46
    seeds: int = 3
    methods: int = 4
    between: tuple[float, ...] = (0.1,)
    by_method: float = 0.3
    by_both: float = 0.7
    ahead: float = 0.0

    @property
    def names(self) -> list[str]:
        """Of the methods."""
        return [FIXED, *(f"m{number}" for number in range(self.methods))]

    def sd(self, number: int) -> float:
        """Between the seeds of a method."""
        return self.between[number % len(self.between)]


def answers(world: World, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Statistics of a comparison's answers, by method: (seeds, items, k)."""
    items, parts = world.items, 4 if world.metric == "figures" else 2
    counts = generator.integers(1, parts + 1, items) if world.metric == "figures" else np.ones(items, int)
    truth = generator.choice(3, items, p=(0.2, 0.3, 0.5))
    hard = generator.normal(size=items)
    found = {}
    for number, name in enumerate(world.names):
        seeds = 1 if name == FIXED else world.seeds
        shift = 0.0 if name == FIXED else generator.normal(0, world.sd(number - 1), (seeds, 1))
        ahead = world.ahead if number == world.methods else 0.0
        ease = hard + generator.normal(0, world.by_method, items) + shift + ahead
        ease = ease + generator.normal(0, world.by_both, (seeds, items))
        right = ease[:, :, None] + generator.normal(0, OF_A_FIGURE, (seeds, items, parts)) > 0
        found[name] = _figures(right, counts) if world.metric == "figures" else _classes(right, truth)
    return found


def _figures(right: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Right ones of an item's figures, and how many those are."""
    asked = np.arange(right.shape[2]) < counts[:, None]
    return np.stack([(right & asked).sum(axis=2), np.broadcast_to(counts, right.shape[:2])], axis=2).astype(float)


def _classes(right: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """As `macro_f1` has them: the right class, or one of the two others, of which one is taken more often."""
    chosen = np.where(right[:, :, 0], truth, (truth + 1 + right[:, :, 1]) % 3)
    is_truth = np.broadcast_to(np.eye(3)[truth], (*chosen.shape, 3))
    is_chosen = np.eye(3)[chosen]
    return np.concatenate([is_truth * is_chosen, is_truth + is_chosen], axis=2)


@cache
def true_scores(world: World) -> dict[str, float]:
    """Scores of the methods over endless seeds and items: the mean over those of single seeds."""
    if world.metric == "figures":
        found = {}
        for number, name in enumerate(world.names):
            between = 0.0 if name == FIXED else world.sd(number - 1)
            spread = math.sqrt(1 + world.by_method**2 + world.by_both**2 + OF_A_FIGURE**2 + between**2)
            found[name] = 100 * float(norm.cdf((world.ahead if number == world.methods else 0.0) / spread))
        return found
    metric, scores = find_metric(world.metric), {name: [0.0][:0] for name in world.names}
    for draw in range(40):
        for name, rows in answers(replace(world, items=4000, seeds=40), np.random.default_rng([draw, 99])).items():
            scores[name] += [metric.score(of_seed) for of_seed in rows.sum(axis=1)]
    return {name: float(np.mean(of_seeds)) for name, of_seeds in scores.items()}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Of one comparison: whether something was called different, and which intervals held the truth."""

    different: bool
    scores: list[bool]
    differences: list[bool]


def look(world: World, number: int) -> Seen:
    """Compare once."""
    metric, truth = find_metric(world.metric), true_scores(world)
    statistics = answers(world, np.random.default_rng([number, 1]))
    pairs = compare_statistics(metric, "test", statistics, (FIXED,))
    scores = scores_of(metric, statistics)
    return Seen(
        different=any(pair.p_adjusted <= LUCK for pair in pairs),
        scores=[scores[name][0] <= truth[name] <= scores[name][1] for name in statistics],
        differences=[pair.low <= truth[pair.b] - truth[pair.a] <= pair.high for pair in pairs],
    )


def scores_of(metric: Metric, statistics: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Intervals of the methods, as the report has them."""
    between = between_seeds(metric, statistics, (FIXED,))
    found = {name: score_with_seeds(metric, rows, between.get(name)) for name, rows in statistics.items()}
    return {name: (score.low, score.high) for name, score in found.items()}


def last_pair(world: World, number: int) -> Comparison:
    """The last two methods beside each other, of which the last may be ahead."""
    statistics = answers(world, np.random.default_rng([number, 2]))
    return compare_statistics(find_metric(world.metric), "test", statistics, (FIXED,))[-1]


def difference(world: World) -> float:
    """Between the last two methods, in truth."""
    truth = true_scores(world)
    return truth[world.names[-1]] - truth[world.names[-2]]


def ahead_by(world: World, wanted: float) -> World:
    """The world in which the last method is better by `wanted`, in the metric."""
    low, high = 0.0, 4.0
    for _ in range(30 if world.metric == "figures" else 8):
        middle = (low + high) / 2
        low, high = (low, middle) if difference(replace(world, ahead=middle)) > wanted else (middle, high)
    return replace(world, ahead=(low + high) / 2)


def planted(world: World, comparisons: int, pool: Pool) -> str:
    """Plant what the reports of some comparisons say that they would find, each in another, and see how often it is."""
    said = pool.map(partial(last_pair, world), range(comparisons))
    worlds = [ahead_by(world, pair.detectable) for pair in said if pair.detectable is not None]
    pairs = pool.starmap(last_pair, zip(worlds, range(comparisons, 2 * comparisons), strict=False))
    found = np.mean([pair.p_adjusted <= LUCK for pair in pairs])
    middle = np.median([pair.detectable for pair in said if pair.detectable is not None])
    return f"of differences said to be found in {POWER:.0%} of comparisons ({middle:.1f} points), {found:.1%} are found"


def more(world: World, comparisons: int, pool: Pool) -> str:
    """Take comparisons that tell nothing, each with the difference that it shows as the true one, and give more."""
    shown = pool.map(partial(last_pair, replace(world, ahead=0.25)), range(comparisons))
    undecided = [(n, pair) for n, pair in enumerate(shown) if pair.p_adjusted > LUCK and pair.difference > LEAST]
    asked = []
    for number, pair in undecided:
        if pair.items_to_tell is not None and pair.items_to_tell <= MOST:
            true = ahead_by(world, pair.difference)
            asked.append((replace(true, items=pair.items_to_tell, seeds=pair.seeds_to_tell or 1), number))
    found = pool.starmap(last_pair, asked)
    told = np.mean([pair.p_adjusted <= LUCK for pair in found])
    return (
        f"{len(asked)} of {len(undecided)} undecided comparisons say what would tell them; of that, {told:.1%} are told"
    )


KINDS = {
    "three seeds": World(),
    "three seeds, that differ little": World(between=(0.02,)),
    "three seeds, that differ much": World(between=(0.3,)),
    "three seeds, of one method thrice as much": World(between=(0.1, 0.1, 0.1, 0.3)),
    "three seeds, 400 items": World(items=400),
    "two seeds": World(seeds=2),
    "five seeds": World(seeds=5),
    "three seeds, one method and the untuned": World(methods=1),
    "three seeds, macro F1": World(metric="macro_f1", items=64),
    "one seed, of the models that were trained": World(seeds=1, between=(0.0,), by_both=0.0),
    "one seed, of methods whose seeds differ": World(seeds=1),
}
# Of which the plans are looked at, too.
PLANTED = ("three seeds", "one seed, of the models that were trained", "three seeds, macro F1")


def main() -> None:
    """Print what came of each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=1000, help="of each kind (default: 1000)")
    parser.add_argument("--only", default="", metavar="TEXT", help="kinds whose name has this in it")
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count(), help="default: all cores")
    arguments = parser.parse_args()
    count = arguments.comparisons
    print("| identical methods | called different | scores held | differences held |\n|---|---|---|---|", flush=True)
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for name, world in KINDS.items():
            if arguments.only not in name:
                continue
            seen = pool.map(partial(look, world), range(count), chunksize=max(1, count // 50))
            different = np.mean([one.different for one in seen])
            scores, pairs = (np.mean([one.scores for one in seen]), np.mean([one.differences for one in seen]))
            print(f"| {name} | {different:.1%} | {scores:.1%} | {pairs:.1%} |", flush=True)
        for name in PLANTED:
            if arguments.only in name:
                print(f"\n{name}: {planted(KINDS[name], count, pool)}", flush=True)
                print(f"{name}: {more(KINDS[name], count, pool)}", flush=True)


if __name__ == "__main__":
    main()
