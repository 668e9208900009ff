"""Trackers: what others' stores on this machine hold of a run."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tiny import write_recipe
from workbench.errors import UserError
from workbench.results import read_results
from workbench.run.__main__ import main
from workbench.training.trackers import Several, Tracked, known_trackers, require_trackers


def tracked(tmp_path: Path, *names: str) -> Path:
    """A run that is tracked, in its output folder."""
    recipe, out = write_recipe(tmp_path), tmp_path / "monday"
    begun = ["--methods", "untuned,lora", "--limit", "4", "--bits", "32", "--track", ",".join(names)]
    assert main([str(recipe), *begun, "--out", str(out)]) == 0
    return out


def test_mlflow_and_wandb_hold_curves_settings_and_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("mlflow", "wandb"):
        pytest.importorskip(package)
    for name in ("MLFLOW_TRACKING_URI", "WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    out = tracked(tmp_path, "mlflow", "wandb")
    assert all(line.startswith("|") for line in capsys.readouterr().out.splitlines())
    record = read_results(out / "results.json").runs[1]

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "monday/lora-seed0"
    assert run.info.status == "FINISHED"
    assert (run.data.params["r"], run.data.params["seed"]) == ("4", "0")
    losses = client.get_metric_history(run.info.run_id, "train/loss")
    expected = {point["step"]: point["loss"] for point in record.curve if "loss" in point}
    assert {one.step: one.value for one in losses} == pytest.approx(expected)
    assert run.data.metrics["bleu/test"] == pytest.approx(record.metrics["bleu[test]"].value)
    assert client.get_metric_history(run.info.run_id, "eval/loss")
    assert str(tmp_path) not in str(run.data.params | run.data.tags)

    (kept,) = (out / "wandb").glob("offline-run-*/run-*.wandb")
    held = kept.read_bytes()
    for name in (b"train/loss", b"eval/loss", b"bleu[test]", b"monday", b"lora-seed0"):
        assert name in held


def test_trackio_holds_them(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    command = [sys.executable, "-m", "workbench.run", str(write_recipe(tmp_path)), "--methods", "lora", "--limit", "4"]
    surroundings = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")}  # it reads that when it is imported
    command += ["--bits", "32", "--track", "trackio", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=True)
    assert all(line.startswith("|") for line in done.stdout.splitlines())
    (store,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(store) as opened:
        held = " ".join(str(row) for row in opened.execute("SELECT * FROM metrics"))
    assert "train/loss" in held
    assert "bleu[test]" in held


def test_what_a_tracker_raises_costs_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told = Tracked(project="p", group="g", run="1", name="n", settings={}, folder=tmp_path)
    tracking = Several(["tensorboard"], told)

    def broken(values: Mapping[str, float], step: int) -> None:
        raise ConnectionError("no route")

    tracking.trackings["tensorboard"].log = broken  # type: ignore[method-assign]
    tracking.log({"train/loss": 1.0}, 1)
    tracking.log({"train/loss": 1.0}, 2)
    tracking.close({})
    assert [record.message for record in caplog.records] == [
        "tensorboard: nothing more is tracked: ConnectionError: no route"
    ]


def test_what_is_not_there_is_told_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"mlflw.*did you mean mlflow"):
        require_trackers(["mlflw"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package wandb: pip install 'workbench\[wandb\]'"):
        require_trackers(["wandb"])
    assert set(known_trackers()) == {"mlflow", "tensorboard", "trackio", "wandb"}


def test_a_training_that_goes_on_is_the_same_to_a_tracker(tmp_path: Path) -> None:
    first = Tracked(project="p", group="g", run="1", name="n", settings={"r": 4}, folder=tmp_path / "lora")
    moved = replace(first, group="elsewhere", folder=tmp_path / "moved")
    assert first.id == moved.id
    assert first.id != replace(first, name="other").id
    assert first.id != replace(first, run="2").id  # a new run in the same folder is another one
