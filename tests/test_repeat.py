"""From what a run comes, and what comes out when it is carried out again."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from workbench.files import sha256_of
from workbench.run.__main__ import main
from workbench.run.folder import RunFolder
from workbench.run.options import Options
from workbench.run.origin import command_of, git_state
from workbench.run.repeat import repeated_text


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_a_run_is_repeated_and_what_differs_is_told(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    assert run(recipe_file, "--methods", "untuned,lora", "--limit", 8, "--seed", 3, "--out", first) == 0
    capsys.readouterr()
    assert run("--repeat", first, "--out", again) == 0
    printed, err = capsys.readouterr()
    assert "| lora" in printed
    assert "bit for bit" in err
    said = (again / "repeat.md").read_text()
    assert "- untuned, seed 3: answers and scores are the same, bit for bit" in said
    assert "- lora, seed 3: weights, answers and scores are the same, bit for bit" in said
    assert "Since then another" not in said

    # As another machine might have left it.
    results = json.loads((first / "results.json").read_text())
    results["environment"]["processor"] = "another"
    results["environment"]["libraries"]["torch"] = "1.0"
    (first / "results.json").write_text(json.dumps(results))
    predictions = first / "lora" / "predictions.jsonl"
    rows = [json.loads(line) for line in predictions.read_text().splitlines()]
    rows[0]["prediction"] += " indeed"
    predictions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = json.loads((first / "lora" / "manifest.json").read_text())
    manifest["files"]["predictions.jsonl"] = sha256_of(predictions)
    (first / "lora" / "manifest.json").write_text(json.dumps(manifest))
    said = repeated_text(RunFolder.open(first), RunFolder.open(again))
    assert f"the weights are the same, bit for bit; {len(rows) - 1} of {len(rows)} answers are the same" in said
    assert "Since then another: processor another, now" in said
    assert "torch 1.0, now" in said


def test_what_can_not_be_repeated_is_told(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(recipe_file, "--methods", "untuned", "--limit", 8, "--out", out) == 0
    for arguments, reason in (
        (("--repeat", out, "--seeds", 2), "--repeat carries out the same once more"),
        (("--repeat", out, recipe_file), "one of them"),
        (("--repeat", tmp_path / "nothing"), "is no run"),
        (("--repeat", out, "--out", out), "is not empty"),
    ):
        capsys.readouterr()
        assert run(*arguments) == 2
        assert reason in capsys.readouterr().err
    recipe_file.write_text(recipe_file.read_text() + "\n# another\n")
    assert run("--repeat", out, "--out", tmp_path / "b") == 2
    assert "has changed since" in capsys.readouterr().err


def test_a_run_keeps_the_text_of_its_recipe_and_the_command(recipe_file: Path, tmp_path: Path) -> None:
    (recipe_file.parent / "beside.py").write_text("WORD = 1\n")
    recipe_file.write_text("import beside\n" + recipe_file.read_text())
    out = tmp_path / "out"
    assert run(recipe_file, "--methods", "untuned", "--limit", 8, "--out", out) == 0
    options = json.loads((out / "options.json").read_text())
    assert options["code"][recipe_file.name] == recipe_file.read_text()
    assert options["code"]["beside.py"] == "WORD = 1\n"
    environment = json.loads((out / "results.json").read_text())["environment"]
    assert environment["command"].endswith(f"--methods untuned --bits {options['bits']} --limit 8")


def test_the_command_begins_the_same_run() -> None:
    options = Options(
        recipe="a b.py", recipe_sha256="", methods=["lora", "full"], model="pypi:base==1.0/model", bits=8,
        seed=1, seeds=3, limit=None, minutes=2.5, precision="bfloat16",
    )  # fmt: skip
    command = "python -m workbench.run 'a b.py' --methods lora,full --model pypi:base==1.0/model --bits 8"
    assert command_of(options) == f"{command} --precision bfloat16 --seed 1 --seeds 3 --minutes 2.5"


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_state_of_the_repository_is_known(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert git_state(tmp_path) is None
    git("init")
    (tmp_path / "recipe.py").write_text("a")
    git("add", ".")
    git("commit", "-m", "a")
    assert git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "changed": False}
    (tmp_path / "recipe.py").write_text("b")
    state = git_state(tmp_path)
    assert state is not None
    assert state["changed"] is True
