"""A run by several processes beside each other: the same results, whatever becomes of one of them."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cluster import simulated

from test_processes import TORCHRUN, launch, losses
from tiny import write_recipe
from workbench.errors import UserError
from workbench.results import Results, read_results
from workbench.run.__main__ import main
from workbench.run.folder import RunFolder
from workbench.run.prepared import prepare_run
from workbench.run.tasks import TrialTask
from workbench.run.trial import Trial
from workbench.run.worker import carry_out

# A metric of its own, during which any process but the test's is killed, as often as there are files for it.
DEADLY = """
import os, signal
from dataclasses import replace
from pathlib import Path
import numpy as np
from workbench.evaluation import Metric

def counted(answers):
    lives = sorted(Path({lives!r}).iterdir())
    if lives and os.getpid() != {spared}:
        lives[0].unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return np.array([(len(answer.prediction), 1.0) for answer in answers]).reshape(-1, 2)

length = Metric(
    name="length", title="characters", summary="mean length in characters.", higher_is_better=False, worst=9e9, best=0,
    statistics=counted, score=lambda total: float(total[0] / total[1]), signature=lambda answers: "code points",
)
recipe = replace(recipe, metrics=(*recipe.metrics, length))
"""
# What hangs on the machine and the moment.
OF_THE_MOMENT = ("seconds", "usage", "memory", "per_second", "forecast", "speed", "environment", "budget")
ARGUMENTS = ("--methods", "untuned,lora", "--bits", "32", "--seeds", "2", "--tune", "3", "--curve")


def told(value: Any) -> Any:
    """Of results, what another run should have, too."""
    if isinstance(value, dict):
        return {k: told(part) for k, part in value.items() if not any(name in k for name in OF_THE_MOMENT)}
    return [told(part) for part in value] if isinstance(value, list) else value


def results_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = told(json.loads((out / "results.json").read_text(encoding="utf-8")))
    return found


def answers_of(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*.jsonl"))}


def with_lives(folder: Path, lives: int) -> Path:
    """A recipe by which processes that help are killed so many times."""
    (folder / "lives").mkdir()
    for number in range(lives):
        (folder / "lives" / str(number)).touch()
    return write_recipe(folder, DEADLY.format(lives=str(folder / "lives"), spared=os.getpid()))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run by one process, beside its recipe and what it lies on."""
    folder = tmp_path_factory.mktemp("one")
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as each of two processes has on two cores
    assert main([str(with_lives(folder, 0)), *ARGUMENTS, "--out", str(folder / "one")]) == 0
    torch.set_num_threads(before)
    return folder / "one"


@pytest.mark.slow
def test_two_jobs_of_which_one_is_killed_find_what_one_finds(one: Path, tmp_path: Path) -> None:
    recipe, two = one.parent / "tiny.py", tmp_path / "two"
    life = one.parent / "lives" / "0"
    life.touch()
    assert main([str(recipe), *ARGUMENTS, "--jobs", "2", "--cpus", "1", "--out", str(two)]) == 0
    assert not life.exists()
    assert results_of(two) == results_of(one)
    assert answers_of(two) == answers_of(one)
    assert not RunFolder.open(two).workers.exists()
    assert "Beside each other, in minutes: tuning" in (two / "report.md").read_text()
    assert "Beside each other" not in (one / "report.md").read_text()
    # The schedule itself, asked by a clock: a chain of trials and seeds bounds what more machines give.
    run = RunFolder.open(two)
    job, before = prepare_run(run), run.read_results()
    took = {}
    for machines in (1, 2, 50):
        there = RunFolder(tmp_path / f"of {machines}", replace(run.options, tune=9, seeds=4), run.recipe)
        there.path.mkdir()
        tasks, took[machines], busy = simulated(job, there, before, machines, start=0.0)
        assert tasks == 1 + 4 + 9 + 2
        assert busy <= machines * took[machines]
    assert took[1] > took[2] > took[50] > took[1] / 10


FSDP = """
distributed_type: FSDP
num_machines: 1
num_processes: 2
mixed_precision: 'no'
fsdp_config:
  fsdp_version: 2
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_reshard_after_forward: true
"""


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [False, True])
def test_two_processes_that_train_together_find_what_one_finds(fsdp: bool, one: Path, tmp_path: Path) -> None:
    configured = tmp_path / "fsdp.yaml"
    configured.write_text(FSDP)
    accelerate = ("accelerate.commands.accelerate_cli", "launch", "--config_file", str(configured))
    out, recipe = tmp_path / "out", one.parent / "tiny.py"
    arguments = ("--methods", "lora", *ARGUMENTS[2:-1], "--out", str(out))
    begun = launch("-m", "workbench.run", str(recipe), *arguments, by=accelerate if fsdp else TORCHRUN)
    assert begun.returncode == 0, begun.stderr
    assert begun.stdout.count("| lora ") == 1
    ours, alone = read_results(out / "results.json"), read_results(one / "results.json")
    others = [run for run in alone.runs if run.method == "lora"]
    for run, other in zip(ours.runs, others, strict=True):
        assert run.done, run.error
        assert (run.seed, run.steps, run.export.merged) == (other.seed, other.steps, other.export.merged)
        assert losses(run.curve) == pytest.approx(losses(other.curve), abs=1e-5)
        assert run.metrics["perplexity"].value == pytest.approx(other.metrics["perplexity"].value, rel=1e-4)
    (tuned,), (before,) = ours.tuning, alone.tuning
    assert tuned.settings == before.settings
    tried = [trial.validation_loss for trial in tuned.trials]
    assert tried == pytest.approx([trial.validation_loss for trial in before.trials], abs=1e-5)
    assert (ours.environment["processes"], ours.environment["fsdp"]) == (2, fsdp)
    assert ("accelerate launch --use_fsdp" in str(ours.environment["command"])) is fsdp
    assert files_of(out / "lora") == files_of(one / "lora")
    assert not list(out.rglob("*.part"))


@pytest.mark.slow
def test_a_process_that_finds_other_data_or_can_not_prepare_ends_the_run(
    one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    shutil.copytree(one, other)
    options = json.loads((other / "options.json").read_text())
    assert options["data"] == prepare_run(RunFolder.open(one)).data.content
    (other / "options.json").write_text(json.dumps({**options, "data": "0"}))
    with pytest.raises(UserError, match="have changed since they were prepared"):
        carry_out(str(other), TrialTask(trial=Trial(entry="lora")))
    monkeypatch.setattr("workbench.run.prepared.prepare_run", lambda *_: 1 / 0)
    with pytest.raises(UserError, match=r"can't be prepared by a process on .*: ZeroDivisionError"):
        carry_out(str(one), TrialTask(trial=Trial(entry="lora")))


def files_of(folder: Path) -> set[str]:
    """What lies in the folder of a trial, but for logs, whose names hold the time."""
    found = (file for file in folder.rglob("*") if "tfevents" not in file.name)
    return {str(file.relative_to(folder)) for file in found}


@pytest.mark.slow
def test_what_dies_always_is_recorded_and_resumed(tmp_path: Path) -> None:
    recipe, out = with_lives(tmp_path, 4), tmp_path / "out"
    assert main([str(recipe), "--methods", "untuned", "--jobs", "2", "--out", str(out)]) == 1
    (untuned,) = read_results(out / "results.json").runs
    assert "signal 9, 3 times" in (untuned.error or "")
    assert len(list((tmp_path / "lives").iterdir())) == 1
    assert main(["--resume", str(out), "--jobs", "3", "--cpus", "1"]) == 0  # dies once more, and is begun anew
    assert RunFolder.open(out).options.jobs == 3
    assert all(run.done for run in read_results(out / "results.json").runs)
    assert not list((tmp_path / "lives").iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--jobs", "2", "--minutes", "30"), "shares out the time of one process"),
        (("--jobs", "1000000"), "1000000 jobs take"),
        (("--jobs", "0"), "0 is less than 1"),
        (("--address", "auto"), "add --engine ray"),
        (("--cpus", "1"), "add --jobs N"),
    ],
)
def test_what_can_not_be_carried_out_beside_each_other_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    recipe, out = write_recipe(tmp_path), tmp_path / "out"
    try:
        code = main([str(recipe), "--methods", "untuned", *arguments, "--out", str(out)])
    except SystemExit as error:
        code = int(error.code or 0)
    assert code == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
def test_ray_finds_the_same_and_replaces_what_dies(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    recipe = with_lives(tmp_path, 1)
    found: dict[str, Results] = {}
    for engine in ("ray", "local"):
        out = tmp_path / engine
        assert main([str(recipe), *ARGUMENTS, "--engine", engine, "--jobs", "2", "--out", str(out)]) == 0
        found[engine] = read_results(out / "results.json")
    assert not list((tmp_path / "lives").iterdir())
    assert results_of(tmp_path / "ray") == results_of(tmp_path / "local")
    assert answers_of(tmp_path / "ray") == answers_of(tmp_path / "local")
    assert [run.seed for run in found["ray"].runs] == [0, 0, 1]
