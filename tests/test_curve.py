"""A score by the number of training rows: the line, what it expects, where it passes others, a run that makes it."""

from pathlib import Path

import numpy as np
import pytest

from tiny import write_recipe
from workbench.compare import fitted_curve
from workbench.compare.curve import curve_text
from workbench.evaluation import Prediction, find_metric, read_predictions
from workbench.results import read_results
from workbench.run.__main__ import main
from workbench.run.folder import RunFolder
from workbench.run.prepared import prepare_run


def answers(right: float, count: int = 400, seed: int = 0, split: str = "test") -> list[Prediction]:
    """Of a yes-or-no question, with such a share of right ones; the hard questions are the same for everybody."""
    hard = np.random.default_rng(seed).random(count)
    return [
        Prediction(
            id=f"q{number}",
            split=split,
            prompt="?",
            reference="yes",
            prediction="yes" if one < right else "no",
            choices={"yes": -0.1 if one < right else -3.0, "no": -3.0 if one < right else -0.1},
            groups={},
            nll=0.0,
            tokens=1,
        )
        for number, one in enumerate(hard)
    ]


def test_a_line_is_found_and_its_forecast_comes_true() -> None:
    metric = find_metric("accuracy")
    rights = {rows: 0.4 + 0.08 * np.log2(rows / 250) for rows in (250, 500, 1000, 2000)}
    points = [(rows, answers(rights[rows]), 1.0) for rows in (250, 500, 1000)]
    curve = fitted_curve(metric, "test", "lora", points, {"tfidf": answers(0.52), "none": answers(0.99)})
    assert curve.per_doubling.value == pytest.approx(8, abs=1.5)
    truth = 100 * np.mean([one.prediction == "yes" for one in answers(rights[2000])])
    assert curve.twice.low < truth < curve.twice.high
    passed, never = curve.crossings
    assert passed.above
    assert passed.low < 250 * 2 ** ((0.52 - 0.4) / 0.08) < passed.high
    assert not never.above
    assert never.rows > 10_000
    assert "passes tfidf" in curve_text(curve, "accuracy")
    assert "would pass none" in curve_text(curve, "accuracy")


def test_intervals_hold_and_seeds_make_them_wider() -> None:
    metric, inside, widths = find_metric("accuracy"), 0, []
    for seed in range(30):  # more data give nothing, but what is measured differs by chance
        given = [(rows, answers(0.5, 200, seed=1000 * seed + rows), 0.0) for rows in (250, 500, 1000)]
        curve = fitted_curve(metric, "test", "lora", given, {})
        inside += curve.per_doubling.low <= 0 <= curve.per_doubling.high
        wider = fitted_curve(metric, "test", "lora", given, {}, deviation=3.0)
        widths.append(
            (wider.per_doubling.high - wider.per_doubling.low) / (curve.per_doubling.high - curve.per_doubling.low)
        )
    assert inside >= 26
    assert np.mean(widths) > 1.1


def test_a_flat_line_passes_nothing() -> None:
    metric = find_metric("accuracy")
    points = [(rows, answers(0.5), 0.0) for rows in (250, 500, 1000)]
    curve = fitted_curve(metric, "test", "lora", points, {"ahead": answers(0.7), "behind": answers(0.3)})
    assert curve.per_doubling.value == pytest.approx(0)
    assert [one.rows for one in curve.crossings] == [None, None]
    assert [one.above for one in curve.crossings] == [False, True]
    text = curve_text(curve, "accuracy")
    assert "It is behind ahead (64.2), and not known to reach it." in text
    assert "It is ahead of behind" in text


def test_a_run_trains_on_nested_parts_and_goes_on_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = "\nfrom dataclasses import replace\nrecipe = replace(recipe, baselines={'silent': lambda *parts: {}})\n"
    recipe, out = write_recipe(tmp_path, more), tmp_path / "out"
    begun = [str(recipe), "--methods", "untuned,lora", "--curve", "--bits", "32", "--out", str(out)]
    from workbench.run import curve as module
    from workbench.run import tasks

    carried: list[float] = []
    carry_out = module.carry_out_part

    def interrupted(job, entry, part, *others):  # type: ignore[no-untyped-def]
        if part == 0.5 and not carried.count(0.5):
            carried.append(part)
            raise KeyboardInterrupt
        carried.append(part)
        carry_out(job, entry, part, *others)

    monkeypatch.setattr(tasks, "carry_out_part", interrupted)
    assert main(begun) == 130
    failing = module.run_method
    monkeypatch.setattr(module, "run_method", lambda *_, **__: 1 / 0)
    assert main(["--resume", str(out)]) == 1
    monkeypatch.setattr(module, "run_method", failing)
    assert main(["--resume", str(out)]) == 0
    assert carried == [0.25, 0.5, 0.5, 0.5]
    (curve,) = read_results(out / "results.json").curves
    assert (curve.entry, curve.label, curve.examples) == ("lora", "bleu[test]", 4)
    assert [point.rows for point in curve.points] == [6, 12, 24]
    assert [one.other for one in curve.crossings] == ["untuned"]
    assert sorted(path.name for path in (out / "curve" / "lora-25").iterdir()) == ["point.json", "predictions.jsonl"]
    assert "How many examples are needed" in (out / "report.html").read_text()
    # Parts lie in each other, and all are scored on the same examples.
    asked = [{one.id for one in read_predictions(out / "curve" / f"lora-{part}")} for part in (25, 50)]
    assert asked[0] == asked[1]
    assert asked[0] < {one.id for one in read_predictions(out / "lora")}
    job = prepare_run(RunFolder.open(out))
    some = [module.part_of_job(job, part, job.steps).rows.train["input_ids"] for part in (0.25, 0.5, 1.0)]
    texts = [{tuple(row) for row in rows} for rows in some]
    assert len(texts[0]) == 6
    assert texts[0] < texts[1] < texts[2]
