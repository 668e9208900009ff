"""Comparisons: paired, corrected, and a report that needs nothing else."""

import numpy as np
import pytest

from tiny import metric_info, run_record, tiny_results
from workbench.compare import compare_methods
from workbench.compare.charts import confusion_matrix, figure_of, quality_against_costs, svg
from workbench.compare.paired import pareto_front
from workbench.compare.report import _markdown
from workbench.compare.tables import head, rows, table
from workbench.compare.verdict import conclude
from workbench.console import markdown
from workbench.evaluation import Prediction, find_metric, score_all
from workbench.export.card import model_card
from workbench.results import Comparison, Results, Score


def answers(right: list[bool], prefix: str = "") -> list[Prediction]:
    return [
        Prediction(
            id=f"{prefix}{n}",
            split="test",
            prompt="",
            reference="€5",
            prediction="€5" if ok else "€6",
            nll=1,
            tokens=1,
        )
        for n, ok in enumerate(right)
    ]


def test_a_clear_difference_is_found_and_equal_methods_are_not_told_apart() -> None:
    good, poor = [n % 10 != 0 for n in range(100)], [n % 2 == 0 for n in range(100)]
    other = [n % 10 != 1 for n in range(100)]
    found = compare_methods(
        find_metric("figures"),
        "test",
        {"poor": [answers(poor)], "good": [answers(good)], "other": [answers(other)]},
    )
    by_pair = {(c.a, c.b): c for c in found}
    clear = by_pair["poor", "good"]
    assert clear.difference == pytest.approx(40)
    assert clear.low > 0
    assert clear.p_adjusted < 0.01
    equal = by_pair["good", "other"]
    assert equal.difference == 0
    assert equal.low < 0 < equal.high
    assert equal.p_adjusted > 0.5


def test_pairing_sees_what_separate_intervals_do_not() -> None:
    """One method is the other plus a little: every conversation agrees, though conversations differ much."""
    hard = [n % 2 == 0 for n in range(200)]
    better = [ok or n % 20 == 1 for n, ok in enumerate(hard)]
    found = compare_methods(find_metric("figures"), "test", {"a": [answers(hard)], "b": [answers(better)]})[0]
    assert found.low > 0


@pytest.mark.parametrize(("count", "told"), [(1, False), (2, False), (3, False), (5, False), (6, True), (40, True)])
def test_a_handful_of_items_tells_nothing(count: int, told: bool) -> None:
    methods = {"a": [answers([False] * count)], "b": [answers([True] * count)]}
    (found,) = compare_methods(find_metric("figures"), "test", methods)
    assert found.difference == 100
    assert found.items == count
    assert (found.p < 0.05) == told
    assert found.p >= min(1.0, 2.0 ** (1 - count))


@pytest.mark.parametrize("count", [1, 6, 10, 20])
def test_equal_methods_are_called_different_no_more_often_than_stated(count: int) -> None:
    """Two methods that are right half the time, each by itself."""
    random, draws = np.random.default_rng(count), 200
    found = 0
    for _ in range(draws):
        a, b = (list(map(bool, random.integers(0, 2, count))) for _ in range(2))
        found += compare_methods(find_metric("figures"), "test", {"a": [answers(a)], "b": [answers(b)]})[0].p < 0.05
    assert found / draws <= 0.05 + 2 * (0.05 * 0.95 / draws) ** 0.5


@pytest.mark.parametrize("share", [0.5, 0.9, 1.0])
@pytest.mark.parametrize("count", [1, 2, 4, 8, 16])
def test_intervals_of_few_items_hold_the_truth_as_often_as_stated(count: int, share: float) -> None:
    random, draws, held = np.random.default_rng(count), 300, 0
    for _ in range(draws):
        given = answers(list(map(bool, random.random(count) < share)))
        score = score_all([find_metric("figures")], given)["figures"]
        assert 0 <= score.low <= score.value <= score.high <= 100
        assert score.low < score.high
        held += score.low <= 100 * share <= score.high
    assert held / draws >= 0.95 - 3 * (0.05 * 0.95 / draws) ** 0.5


def test_more_pairs_make_each_less_certain() -> None:
    methods = {f"m{k}": [answers([(n * 7 + k * 13) % 10 < 5 + k % 2 for n in range(60)])] for k in range(4)}
    found = compare_methods(find_metric("figures"), "test", methods)
    assert len(found) == 6
    assert all(c.p_adjusted >= c.p for c in found)


def test_a_clear_difference_is_found_among_many_methods() -> None:
    methods = {f"m{k}": [answers([n % 10 >= k // 6 for n in range(100)])] for k in range(12)}
    methods["poor"] = [answers([n % 2 == 0 for n in range(100)])]
    found = compare_methods(find_metric("figures"), "test", methods)
    assert len(found) == 78
    assert all(c.p_adjusted < 0.02 for c in found if c.b == "poor")


def test_the_pareto_front_leaves_out_what_is_beaten() -> None:
    points = {"cheap": (1.0, 5.0), "good": (3.0, 9.0), "beaten": (3.5, 8.0), "twin": (1.0, 5.0)}
    assert set(pareto_front(points)) == {"cheap", "good", "twin"}


def results(perplexities: dict[str, float], p_adjusted: float, items: int | None = 20) -> Results:
    names = list(perplexities)
    values = {"difference": 1.0, "low": 0.0, "high": 2.0, "p": p_adjusted, "p_adjusted": p_adjusted, "items": items}
    shared = {"metric": "perplexity", "split": "test", **values}
    return tiny_results(
        headline="perplexity",
        metrics={"perplexity": metric_info("perplexity", higher_is_better=False)},
        runs=[
            run_record(name, {"perplexity[test]": Score(value=value, low=value, high=value)})
            for name, value in perplexities.items()
        ],
        comparisons=[Comparison(a=names[0], b=name, **shared) for name in names[1:]],
    )


def test_the_conclusion_knows_which_way_is_better() -> None:
    text = conclude(results({"lora": 2.0, "prefix": 50.0}, 0.001))
    assert text.startswith("Best by perplexity on test: lora")
    assert "more than luck" in text
    assert "among lora and prefix" in conclude(results({"lora": 2.0, "prefix": 2.1}, 0.6))
    assert "more than luck" in conclude(results({"lora": 2.0, "prefix": 50.0}, 0.001, items=None))
    for items in (1, 5):
        text = conclude(results({"lora": 2.0, "prefix": 50.0}, 0.06, items))
        assert f"{items} independent test examples are too few to tell methods apart" in text
    assert "Nothing to compare" in conclude(results({"lora": 2.0}, 0.6))


def test_a_pictures_description_stands_inside_its_attribute() -> None:
    figure, _ = figure_of(1, 1, (1, 1))
    assert 'aria-label="Share of &quot;no&quot; texts"' in svg(figure, 'Share of "no" texts')


def test_no_picture_shows_the_source_of_a_formula() -> None:
    score = {"figures[test]": Score(value=20, low=10, high=30)}
    runs = [
        run_record(name, score, trainable_parameters=count) for name, count in (("untuned", 0), ("lora", 6_270_000))
    ]
    picture = quality_against_costs(runs, ["untuned", "lora"], "figures[test]", "figures on test", higher=True)
    assert "mathdefault" not in picture
    assert "$" not in picture
    assert ">1M<" in picture


@pytest.mark.parametrize("name", ["$", "a $ b", "$\\frac{$", "100 % of $5 and $6"])
def test_a_dollar_in_a_name_is_a_dollar(name: str) -> None:
    assert "<svg" in confusion_matrix(np.eye(2), [name, "other"], name)


EVIL = "x | y\n\n# owned ![](http://a/b.png) <img src=x> [l](javascript:x) `c`"


def test_texts_of_others_do_nothing_in_markdown() -> None:
    shown = markdown(EVIL)
    assert "\n" not in shown
    for mark in ("!", "<", "[", "]", "|", "`"):
        assert shown.count(mark) == shown.count(f"\\{mark}"), mark
    failed = run_record("lora", {}, status="failed", error=EVIL)
    for text in (table(tiny_results(runs=[failed]), markdown), _markdown(tiny_results(runs=[failed]), "")):
        assert "<img" not in text
        assert "![" not in text
        assert "\n# owned" not in text
    card = model_card(
        title="t", checkpoint="base`x", licence=EVIL, method="lora", summary="s", recipe=EVIL, seed=0, bits=32,
        examples=1, scores=[(f"bleu[group={EVIL}]", "1.00")], loading="pass", notes={},
    )  # fmt: skip
    assert "<img" not in card
    assert "\n# owned" not in card
    assert card.count("\n| ") == 2  # the table's head and its only row


def test_the_table_says_what_a_thousand_texts_take() -> None:
    runs = [
        run_record(name, {}, seconds_per_1000_texts=seconds)
        for name, seconds in (("slow", 812.3), ("fast", 4.56), ("former", None))
    ]
    results = tiny_results(runs=runs)
    column = head(results).index("s/1,000 texts")
    assert [row[column] for row in rows(results)] == ["812", "4.6", "-"]
