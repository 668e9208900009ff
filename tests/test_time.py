"""Time: what is expected, what is cut so that a run ends in time, and what is said of both."""

import itertools
import json
import math
import time
from dataclasses import replace
from pathlib import Path

import pytest

from test_training import TRAINING, rendered
from tiny import SETTINGS, make_model, make_tokenizer
from workbench import console
from workbench.data import Example
from workbench.data.render import make_renderer, render_all
from workbench.methods import find_method
from workbench.models import attach
from workbench.results import Forecast, read_results
from workbench.run import clock as clock_module
from workbench.run.__main__ import main
from workbench.run.clock import CURVE, EVALUATION, TUNING, RunClock
from workbench.run.clock import TRAINING as TRAINING_STAGE
from workbench.run.plan import LEAST_EXAMPLES, LEAST_STEPS, Amounts, Plan, fit, part_of
from workbench.run.timing import batches_of, padded_tokens
from workbench.training import Limit, train, training_rows
from workbench.training.rows import lengths

AMOUNTS = Amounts(
    fixed=60, step=2, steps=900, validation=20, validations=4, validation_rows=200, evaluation=600,
    examples={"test": 400, "test_unseen": 100},
)  # fmt: skip


def seconds(amounts: Amounts, plan: Plan) -> float:
    """What a plan takes."""
    steps = amounts.steps if plan.steps is None else plan.steps
    rows = 1.0 if plan.validation is None else plan.validation / amounts.validation_rows
    total = sum(amounts.examples.values())
    scored = sum(plan.evaluated.get(split, count) for split, count in amounts.examples.items())
    validating = amounts.validation * amounts.validations * rows
    return amounts.fixed + amounts.step * steps + validating + amounts.evaluation * scored / total


def test_what_fits_is_not_cut() -> None:
    assert fit(AMOUNTS, 3600, 60) == Plan(minutes=60)


def test_every_plan_ends_in_time_and_is_of_use() -> None:
    for step, evaluation, given in itertools.product((0.05, 2, 20), (1, 600, 9000), (120, 900, 3600, 20000)):
        amounts = replace(AMOUNTS, step=step, evaluation=evaluation)
        plan = fit(amounts, given, given / 60)
        if not isinstance(plan, Plan):
            assert plan > given
            # What is said to be enough is enough.
            assert isinstance(fit(amounts, math.ceil(plan) + 1, 0), Plan)
            continue
        assert seconds(amounts, plan) <= given
        assert plan.steps is None or plan.steps >= LEAST_STEPS
        assert all(plan.evaluated.get(split, n) >= LEAST_EXAMPLES for split, n in amounts.examples.items())
        if plan.steps is not None or plan.evaluated:  # no time is left that something cut could have used
            assert seconds(amounts, plan) >= 0.8 * given


def test_a_proof_takes_time_for_the_examples_that_are_scored_and_no_others() -> None:
    dear = replace(AMOUNTS, proof=6, proven=100)
    for given in (600, 900, 1800, 3600):
        plan = fit(dear, given, given / 60)
        assert isinstance(plan, Plan)
        scored = sum({**dear.examples, **plan.evaluated}.values())
        taken = seconds(dear, plan) + dear.proof * min(dear.proven, scored)
        assert 0.8 * given <= taken <= given
    # What is left when every example is proven is shared out as if there were no proofs.
    assert replace(fit(dear, 3600, 60), minutes=0) == fit(replace(AMOUNTS, fixed=AMOUNTS.fixed + 600), 3600, 0)


def test_evaluation_that_is_dear_does_not_leave_training_without_time() -> None:
    plan = fit(replace(AMOUNTS, evaluation=6000), 1800, 30)
    assert isinstance(plan, Plan)
    assert plan.steps is not None and plan.steps > 300
    assert plan.evaluated["test"] < 100


def test_the_scored_part_is_random_always_the_same_and_of_whole_sources() -> None:
    examples = [
        Example(id=f"{n}-{turn}", prompt=({"role": "user", "content": f"q {n} {turn}"},), completion="a", source=str(n))
        for n in range(30)
        for turn in range(2)
    ]
    pairs = render_all(make_renderer(make_tokenizer()), examples, 200)[0]
    small, large = ([e.id for e, _ in part_of(pairs, count)] for count in (10, 30))
    assert (len(small), len(large)) == (10, 30)
    assert set(small) < set(large)
    assert small == [e.id for e, _ in part_of(pairs, 10)]
    assert small != [e.id for e in examples[:10]]
    assert all({f"{e.split('-')[0]}-{turn}" for turn in range(2)} <= set(small) for e in small)
    assert part_of(pairs, 60) is pairs


def test_batches_are_those_of_the_trainer() -> None:
    rows = training_rows(rendered(24), rendered(6, 100)).train
    found = batches_of(lengths(rows), TRAINING, seed=0)
    assert sorted(int(index) for batch in found for index in batch) == list(range(len(rows)))
    assert padded_tokens(lengths(rows)[:3], TRAINING, 8) == 3 * (-(-int(lengths(rows)[:3].max()) // 8) * 8)


def test_a_training_whose_time_is_over_stops_and_keeps_its_state(tmp_path: Path) -> None:
    model = attach(make_model("llama"), find_method("lora"), SETTINGS["lora"], list(range(3, 30)), seed=0)
    rows = training_rows(rendered(24), rendered(6, 100))
    arguments = (make_tokenizer(), rows, TRAINING, 1e-2, False)
    trained = train(model, *arguments, tmp_path / "one", 0, "", limit=Limit(stop_at=time.perf_counter() - 1))
    assert trained.steps == 1
    assert "stopped at step 1 of 6" in trained.warning
    assert math.isfinite(trained.validation_loss)
    # Finished is finished: it is not gone on with.
    again = attach(make_model("llama"), find_method("lora"), SETTINGS["lora"], list(range(3, 30)), seed=0)
    assert train(again, *arguments, tmp_path / "one", 0, "") == trained


def test_a_clock_learns_from_what_parts_took(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: now[0])
    expected = {("a", 0): Forecast(training=600, evaluation=100, export=20), ("b", 0): Forecast(training=600)}
    clock = RunClock(expected, deadline=5000)
    assert clock.left() == 1320
    with clock.stage("a", 0, TRAINING_STAGE):
        assert clock.limit() == Limit(stop_at=(5000 - 120) / 2)
        now[0] = 500
        assert clock.left() == 820
        assert clock.left(at_least=50) == 820
        # Its own steps say that it takes 1,200 instead of 600 seconds: so may what is to come.
        assert clock.left(at_least=700) == pytest.approx(700 + 1260 / 660 * 720)
        assert clock.left(at_least=7000) == 4500  # a run that has to end is cut
        now[0] = 1200
    assert clock.pace == pytest.approx(1260 / 660)
    with clock.stage("a", 0, EVALUATION):
        pass
    clock.drop("a", 0)
    assert clock.left() == pytest.approx(clock.pace * 600)
    clock.stopped_at(40)
    with clock.stage("b", 0, TRAINING_STAGE):
        assert clock.limit() == Limit(stop_at=5000, most_steps=40)
    assert RunClock().limit() == Limit()


def test_stages_of_several_parts_and_those_within_another(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: now[0])
    key = ("a", 0)
    clock = RunClock({key: Forecast(training=100)}, 1000, tuning={key: 300}, curve={key: 90})
    with clock.stage(*key, TUNING, 3):
        # Trials of an entry share what is theirs, of which the first ones may take more.
        assert clock.limit() == Limit(stop_at=(1000 - 90) * 300 / 400)
        now[0] = 100
    assert clock.left() == 200 + 100 + 90
    with clock.stage(*key, TUNING, 2):
        now[0] = 200
        assert clock.limit() == Limit(stop_at=(1000 - 90) * 300 / 400)
    clock.drop(*key)
    with clock.stage(*key, CURVE, 2), clock.stage(*key, TRAINING_STAGE):
        now[0] = 220
        assert clock.left() == 45 - 20 + 45
    assert clock.left() == pytest.approx(45 * clock.pace)


def test_bars_show_the_time_left_of_the_whole_run(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[float] = []
    with (
        console.showing_time_left(lambda own: told.append(own) or 3725.0),
        console.progress_bar("lora", 10, "step") as bar,
    ):
        bar.update(4)
        bar.refresh()
        bar.update(1)
        bar.start_t -= 50
        bar.refresh()
    assert "whole run 1:02:05 left" in capsys.readouterr().err
    assert told[0] == told[1] == 0  # the first steps tell nothing
    assert told[-1] == pytest.approx(50, rel=0.1)
    with console.progress_bar("lora", 10, "step") as bar:
        bar.update(3)
    assert "whole run" not in capsys.readouterr().err


def test_threads_wait_passively_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    limit = tmp_path / "cpu.max"
    limit.write_text("150000 100000\n")
    monkeypatch.setattr(console, "CGROUP_LIMIT", limit)
    monkeypatch.setattr(console.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(console.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(console.os, "environ", dict(console.os.environ))
    console.share_processor()
    assert console.os.environ["GOMP_SPINCOUNT"] == console.SPIN_COUNT
    assert console.os.environ["OMP_NUM_THREADS"] == "2"  # of 64: a container's share is one and a half
    monkeypatch.setattr(console.os, "environ", {"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "1"})
    console.share_processor()
    assert "GOMP_SPINCOUNT" not in console.os.environ
    assert console.os.environ["OMP_NUM_THREADS"] == "1"
    limit.write_text("max 100000\n")
    assert console.available_cores() == 64


LONG = """
from dataclasses import replace
recipe = replace(recipe, methods=("lora", "houlsby"), training=replace(recipe.training, num_train_epochs=10**6))
"""


@pytest.mark.slow
def test_a_run_ends_within_its_minutes_and_says_what_was_cut(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    recipe_file.write_text(recipe_file.read_text() + LONG)
    out = tmp_path / "out"
    assert main([str(recipe_file), "--bits", "32", "--minutes", "0.3", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert any("the whole run: " in line for line in caplog.messages)
    results = read_results(out / "results.json")
    budget = results.budget
    assert budget is not None and budget.was_cut and budget.minutes == 0.3
    assert LEAST_STEPS <= budget.steps < budget.full_steps == 3 * 10**6
    lora, houlsby = results.runs
    assert lora.forecast is not None and lora.forecast.training > 0
    # A method that was stopped says so, and the next one makes no more steps than it.
    assert all(run.steps == budget.steps or "the time was over" in (run.warning or "") for run in results.runs)
    assert houlsby.steps <= lora.steps
    assert [json.loads(line)["id"] for line in (out / "lora/predictions.jsonl").open()] == [
        json.loads(line)["id"] for line in (out / "houlsby/predictions.jsonl").open()
    ]
    assert f"{budget.steps} of the recipe's {budget.full_steps} steps" in said.err
    for report in ("report.md", "report.html"):
        assert "Cut to end within 0.3 minutes" in (out / report).read_text()
    # Whatever is done later with the run is done with the same part of the job.
    assert main(["--resume", str(out), "--methods", "ia3"]) == 0
    assert [run.method for run in read_results(out / "results.json").runs] == ["lora", "houlsby", "ia3"]


def test_too_little_time_is_said_before_anything_is_trained(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe_file.write_text(recipe_file.read_text() + LONG)
    out = tmp_path / "out"
    assert main([str(recipe_file), "--bits", "32", "--minutes", "0.0001", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "give --minutes 1, or fewer methods than lora, houlsby" in said
    assert not out.exists()
    with pytest.raises(SystemExit):
        main([str(recipe_file), "--minutes", "-3"])


def test_a_check_says_what_a_run_would_take(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(recipe_file), "--bits", "32", "--check", "--minutes", "5"]) == 0
    printed = capsys.readouterr().out
    assert "the whole run: 0:" in printed
    assert "to end within 5 minutes: " in printed
    assert "expected" in printed and "houlsby" not in printed


def test_a_method_that_cannot_be_measured_stops_no_run(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no kernel for this shape")

    caplog.set_level("INFO")
    monkeypatch.setattr("workbench.run.measure.training_cost", fails)
    out = tmp_path / "out"
    assert main([str(recipe_file), "--bits", "32", "--limit", "4", "--out", str(out)]) == 0
    assert any("lora          can't be measured: RuntimeError: no kernel" in line for line in caplog.messages)
    untuned, lora = read_results(out / "results.json").runs
    assert untuned.done and lora.done
