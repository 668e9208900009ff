"""Comparisons with several seeds: what is said covers the seeds, and what it would take to know more is true."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tiny import metric_info, run_record, tiny_results
from workbench.compare.paired import compare_statistics
from workbench.compare.power import Spread
from workbench.compare.report import interval_text
from workbench.compare.seeds import between_seeds, jackknifed, over_seeds
from workbench.compare.tables import rows
from workbench.compare.verdict import best_set, conclude, would_tell
from workbench.evaluation import Metric, Prediction, find_metric, score_all
from workbench.results import Comparison, Score, SeedsRecord, read_results, write_results

SHARE = find_metric("figures")


def shares(values: np.ndarray) -> np.ndarray:
    """Statistics of answers that are so right each: (seeds, items) -> (seeds, items, 2)."""
    return np.stack([values, np.ones_like(values)], axis=2)


def drawn(
    generator: np.random.Generator, names: str, *, between: Mapping[str, float], seeds: int = 3, items: int = 60
) -> dict[str, np.ndarray]:
    """Methods that are equally good: some items are hard for all, seeds are better or worse by `between`."""
    hard, found = generator.normal(0.5, 0.2, items), {}
    for name in names:
        of_seeds = generator.normal(0, between.get(name, 0.0), (seeds if name in between else 1, 1))
        found[name] = shares(hard + of_seeds + generator.normal(0, 0.1, (len(of_seeds), items)))
    return found


def test_equal_methods_are_told_apart_by_their_seeds_no_more_often_than_stated() -> None:
    """Where one seed of each is called different most of the time; and intervals hold the difference, which is 0."""
    runs, called, called_by_one, held = 40, 0, 0, []
    for number in range(runs):
        statistics = drawn(np.random.default_rng(number), "uab", between=dict.fromkeys("ab", 0.08))
        pairs = compare_statistics(SHARE, "test", statistics, "u")
        called += any(pair.p_adjusted < 0.05 for pair in pairs)
        held += [pair.low <= 0 <= pair.high for pair in pairs]
        first = {name: of_seeds[:1] for name, of_seeds in statistics.items()}
        called_by_one += any(pair.p_adjusted < 0.05 for pair in compare_statistics(SHARE, "test", first, "u"))
    assert called <= 0.05 * runs + 2 * (0.05 * 0.95 * runs) ** 0.5
    assert called_by_one > 0.5 * runs
    assert np.mean(held) >= 0.9


def test_the_variance_between_seeds_is_that_of_an_analysis_of_variance() -> None:
    """Scores of seeds that differ by a constant differ by nothing else; of one that hangs on items, by the items."""
    items = np.linspace(0, 1, 50)
    shifted = shares(np.stack([items, items + 0.1, items + 0.2]))
    found = between_seeds(SHARE, {"a": shifted, "fixed": shares(items[None])}, {"fixed"})
    assert set(found) == {"a"}
    assert found["a"].variance == pytest.approx(100**2 * 0.01)
    assert found["a"].by_items == pytest.approx(0, abs=1e-9)
    assert found["a"].degrees == 2

    swapped = np.stack([np.tile([0.0, 1.0], 25), np.tile([1.0, 0.0], 25)])
    found = between_seeds(SHARE, {"a": shares(swapped)})
    assert found["a"].variance == 0
    # Mean square of the interaction: 2 * 50 * 0.25 / (49 * 1), over 50 items, in points.
    assert found["a"].by_items == pytest.approx(100**2 * 25 / 49 / 50)
    assert found["a"].by_seeds(0.5) == 0


def test_seeds_of_several_methods_tell_together_and_one_that_varies_far_more_stands_for_itself() -> None:
    items = np.linspace(0, 1, 50)
    near, far = (shares(np.stack([items, items + step, items + 2 * step])) for step in (0.01, 0.5))
    found = between_seeds(SHARE, {"a": near, "b": near, "far": far})
    assert found["far"].degrees == 2
    assert found["far"].variance == pytest.approx(100**2 * 0.25)
    assert found["a"].degrees == 6
    assert found["a"].variance > 1  # the far one is among those that tell: what is said of others is on the safe side
    alike = between_seeds(SHARE, {"a": near, "b": near, "c": near[:1]})
    assert alike["a"].degrees == alike["c"].degrees == 4
    assert alike["a"].variance == pytest.approx(1)
    assert between_seeds(SHARE, {"a": near[:1], "b": near[:1]}) == {}


def macro_f1() -> tuple[Metric, np.ndarray]:
    """A score that is no mean, and answers of two seeds."""
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, 400)
    chosen = np.where(generator.random((2, 400)) < 0.7, truth, generator.integers(0, 3, (2, 400)))
    is_truth, is_chosen = np.broadcast_to(np.eye(3)[truth], (2, 400, 3)), np.eye(3)[chosen]
    return find_metric("macro_f1"), np.concatenate([is_truth * is_chosen, is_truth + is_chosen], axis=2)


def test_the_jackknife_knows_how_a_score_varies_that_is_no_mean() -> None:
    metric, statistics = macro_f1()
    values = jackknifed(metric, statistics)
    assert values.shape == (2, 200)  # blocks of two items
    generator = np.random.default_rng(1)
    draws = [statistics[0][generator.integers(0, 400, 400)].sum(axis=0) for _ in range(2000)]
    bootstrapped = np.std([metric.score(sums) for sums in draws])
    assert values[0].std(ddof=1) / 200**0.5 == pytest.approx(bootstrapped, rel=0.1)


def test_a_score_that_can_not_be_had_is_not_behind() -> None:
    statistics = {"a": shares(np.full((1, 9), 0.5)), "b": shares(np.full((1, 9), np.nan))}
    (pair,) = compare_statistics(SHARE, "test", statistics)
    assert pair.p == 1.0


def test_one_item_has_no_spread() -> None:
    one = {"a": shares(np.array([[1.0], [0.0]])), "b": shares(np.array([[0.0], [0.0]]))}
    (pair,) = compare_statistics(SHARE, "test", one)
    assert pair.p == 1.0
    assert pair.detectable is None


def test_as_many_items_as_are_named_tell_the_difference() -> None:
    generator = np.random.default_rng(3)
    hard = generator.normal(0.5, 0.2, 40)
    statistics = {
        name: shares(hard + ahead + generator.normal(0, 0.3, (1, 40))) for name, ahead in (("a", 0.0), ("b", 0.06))
    }
    (pair,) = compare_statistics(SHARE, "test", statistics)
    assert pair.p_adjusted > 0.05
    assert pair.items_to_tell is not None
    assert pair.items_to_tell > 40
    assert pair.detectable is not None
    assert pair.detectable > abs(pair.difference)
    times = -(-pair.items_to_tell // 40)
    more = {name: np.tile(rows, (1, times, 1)) for name, rows in statistics.items()}
    (told,) = compare_statistics(SHARE, "test", more)
    assert told.difference == pytest.approx(pair.difference)
    assert told.p_adjusted < 0.05
    assert told.items_to_tell is None
    assert told.seeds_to_tell is None


def test_more_items_and_more_seeds_show_smaller_differences() -> None:
    statistics = drawn(np.random.default_rng(0), "ab", between={"a": 0.05, "b": 0.05})
    between = between_seeds(SHARE, statistics)
    spread = Spread.of(SHARE, (statistics["a"], statistics["b"]), (between["a"], between["b"]))
    now = spread.detectable(0.05)
    assert spread.detectable(0.05, items=600) < now
    assert spread.detectable(0.05, seeds=10) < spread.detectable(0.05, items=600)  # here seeds are what varies
    assert spread.detectable(0.005) > now
    assert spread.detectable(0.05, items=3) == np.inf


def test_of_a_handful_of_items_nothing_is_said_to_be_told() -> None:
    statistics = {"a": shares(np.zeros((1, 4))), "b": shares(np.array([[1.0, 0.0, 1.0, 1.0]]))}
    (pair,) = compare_statistics(SHARE, "test", statistics)
    assert pair.p > 0.1
    assert pair.detectable is None
    assert pair.items_to_tell is not None
    assert pair.items_to_tell >= 6


def answers(right: np.ndarray) -> list[Prediction]:
    return [
        Prediction(id=str(n), split="test", prompt="", reference="€5", prediction=f"€{6 - ok}", nll=1, tokens=1)
        for n, ok in enumerate(right.astype(int))
    ]


def test_a_methods_score_is_the_mean_of_its_seeds_with_the_seeds_in_its_interval() -> None:
    generator = np.random.default_rng(0)
    of_seeds = {seed: answers(generator.random(80) < share) for seed, share in ((0, 0.4), (1, 0.6), (2, 0.8))}
    fixed = {0: answers(generator.random(80) < 0.5)}
    lora, untuned = over_seeds([SHARE], {"lora": of_seeds, "untuned": fixed}, {"untuned"})
    each = [score_all([SHARE], given)["figures[test]"] for given in of_seeds.values()]
    score = lora.metrics["figures[test]"]
    assert list(lora.seeds) == [0, 1, 2]
    assert score.value == pytest.approx(np.mean([one.value for one in each]))
    assert score.sd == pytest.approx(np.std([one.value for one in each], ddof=1))
    assert score.high - score.low > max(one.high - one.low for one in each)
    assert 0 <= score.low < score.value < score.high <= 100
    assert untuned.metrics["figures[test]"] == score_all([SHARE], fixed[0])["figures[test]"]


def told(*pairs: tuple[str, str, float, float], seeds: int = 1, **more: int) -> str:
    names = list(dict.fromkeys(name for a, b, _, _ in pairs for name in (a, b)))
    values = {name: 10.0 * (number + 1) for number, name in enumerate(names)}
    scores = {name: {"figures[test]": Score(value=value, low=0, high=99)} for name, value in values.items()}
    found = tiny_results(
        headline="figures",
        metrics={"figures": metric_info("right figures")},
        runs=[run_record(name, scores[name], seed=n, fixed=name == "untuned") for name in names for n in range(seeds)],
        comparisons=[
            Comparison(
                a=a, b=b, metric="figures", split="test", difference=difference, low=0, high=1, p=p, p_adjusted=p,
                items=50, seeds=seeds, detectable=9.0, **more,
            )
            for a, b, difference, p in pairs
        ],
    )  # fmt: skip
    assert (len(best_set(found)) == 1) == all(p < 0.05 for _, _, _, p in pairs)
    return conclude(found)


def test_the_verdict_names_those_among_which_the_best_is() -> None:
    text = told(
        ("untuned", "lora", 10, 0.001), ("untuned", "dora", 20, 0.001), ("lora", "dora", 10, 0.3), items_to_tell=1234
    )
    assert text.startswith("Best by right figures on test: dora, 30.0")
    assert "With 95 % confidence the best is among dora and lora: " in text
    assert "Behind by more than luck explains: untuned." in text
    assert "1,234 test examples (50 here) would tell it" in text
    assert "with one seed each: another seed may change it" in text
    text = told(("untuned", "lora", 10, 0.001), seeds=3)
    assert "Every other method is behind it by more than luck explains" in text
    assert "This holds for other seeds, too: 3 were carried through" in text
    text = told(("untuned", "lora", 10, 0.5))
    assert "which are all" in text
    assert "No training was shown to be worth its cost: untuned may be as good" in text


@pytest.mark.parametrize(
    ("seeds", "more", "text"),
    [
        (1, {"items_to_tell": 90}, "90 test examples (50 here)"),
        (
            3,
            {"items_to_tell": 90, "seeds_to_tell": 5},
            "90 test examples (50 here) with 5 seeds (3 here)",
        ),
        (3, {}, "more than can be had"),
    ],
)
def test_what_would_tell_two_methods_apart_is_said(seeds: int, more: dict[str, int], text: str) -> None:
    pair = Comparison(
        a="a", b="b", metric="m", split="s", difference=1, low=0, high=2, p=0.3, p_adjusted=0.3, items=50,
        detectable=9.0, seeds=seeds, **more,
    )  # fmt: skip
    assert would_tell(pair) == text


def test_several_seeds_are_one_row_and_the_file_keeps_them(tmp_path: Path) -> None:
    score = Score(value=15.0, low=5.0, high=25.0, sd=7.07)
    found = tiny_results(
        headline="figures",
        metrics={"figures": metric_info("right figures")},
        runs=[
            run_record("lora", {"figures[test]": Score(value=10, low=5, high=15)}, seed=0, train_seconds=10.0),
            run_record("lora", {"figures[test]": Score(value=20, low=15, high=25)}, seed=1, train_seconds=30.0),
            run_record("lora", {}, seed=2, status="failed", error="no memory"),
        ],
        over_seeds=[SeedsRecord(method="lora", seeds=[0, 1], metrics={"figures[test]": score})],
    )
    (row,) = rows(found)
    assert row[0] == "lora (2 of 3 seeds)"
    assert row[1] == "15.0 [5.0, 25.0]"
    assert "20" in row
    assert "Means of 2 seeds" in interval_text(found)
    file = tmp_path / "results.json"
    write_results(file, found)
    assert read_results(file).over_seeds[0].metrics["figures[test]"] == score
