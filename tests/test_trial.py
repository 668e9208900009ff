"""A trial can be run by another process, from the folder alone; two processes don't work in one folder."""

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from workbench.errors import UserError
from workbench.files import sha256_of
from workbench.recipe import load_recipe
from workbench.run.__main__ import main
from workbench.run.entries import BaselineEntry, RerankerEntry, TunedEntry, entries_of
from workbench.run.folder import RunFolder
from workbench.run.options import Options
from workbench.run.prepared import prepare_run
from workbench.run.trial import Trial, run_trial, trials_of


@pytest.fixture
def begun(recipe_file: Path, tmp_path: Path) -> RunFolder:
    """The folder of a run in which nothing has been carried through yet."""
    options = Options(
        recipe=str(recipe_file), recipe_sha256=sha256_of(recipe_file), methods=["lora"], model=None, bits=32, seed=0,
        seeds=2, limit=8,
    )  # fmt: skip
    return RunFolder.create(tmp_path / "run", options)


def test_a_trial_has_settings_of_its_own(begun: RunFolder) -> None:
    job = prepare_run(begun, begun.prepared)
    assert [(trial.entry, trial.seed) for trial in trials_of(job, begun.options)] == [("lora", 0), ("lora", 1)]
    own = run_trial(Trial(entry="lora", seed=1, settings={"r": 2, "learning_rate": 0.01}), job, begun)
    assert (own.status, own.learning_rate) == ("done", 0.01)
    # Without settings of its own it is another trial, which does not go on from the state of this one.
    usual = run_trial(Trial(entry="lora", seed=1), job, begun)
    assert usual.trainable_parameters == 2 * own.trainable_parameters  # the recipe's rank is 4
    with pytest.raises(UserError, match="did you mean lora"):
        run_trial(Trial(entry="loras"), job, begun)


def test_two_processes_do_not_work_in_one_folder(begun: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    with begun.locked():
        assert main(["--resume", str(begun.path)]) == 2
    assert f"process {os.getpid()} on {socket.gethostname()} works in" in capsys.readouterr().err
    assert {path.name for path in begun.path.iterdir()} & {".owner"} == set()
    assert not begun.has_results


def test_a_mistake_leaves_no_folder_of_a_new_run(recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{}\n")
    out = tmp_path / "new"
    assert main([str(recipe_file), "--out", str(out)]) == 2
    assert not out.exists()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine.txt").write_text("mine")
    assert main([str(recipe_file), "--out", str(tmp_path / "kept")]) == 2
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["mine.txt"]


def test_entries_stand_in_the_order_of_the_table(recipe_file: Path) -> None:
    recipe = replace(
        load_recipe(recipe_file), baselines={"popularity": lambda *_: None}, features=lambda example: {},
        methods=("untuned", "lora"),
    )  # fmt: skip
    entries = entries_of(recipe)
    assert [entry.name for entry in entries] == ["popularity", "untuned", "ranker-untuned", "lora", "ranker-lora"]
    assert [type(entry) for entry in entries] == [
        BaselineEntry, TunedEntry, RerankerEntry, TunedEntry, RerankerEntry,
    ]  # fmt: skip
    with pytest.raises(UserError, match="ranker-lora stands for two entries"):
        entries_of(replace(recipe, baselines={"ranker-lora": lambda *_: None}))
