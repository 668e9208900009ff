"""The command, from the outside: files, exit codes, resuming, and one clear line for each mistake."""

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from workbench import files
from workbench.run import method_training, method_trial
from workbench.run.__main__ import main
from workbench.run.clock import seconds_noted
from workbench.run.folder import RunFolder
from workbench.run.tuned import load_tuned

ALL = "untuned,full,lora,houlsby,prefix"


def run(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("checkpoint_kind", ["gpt2", "llama"])
def test_every_method_to_the_end(recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    code, printed, _ = run(recipe_file, "--methods", ALL, "--bits", 32, "--out", out, capsys=capsys)
    assert code == 0
    results = json.loads((out / "results.json").read_text())
    runs = {record["method"]: record for record in results["runs"]}
    assert list(runs) == ALL.split(",")
    for name, record in runs.items():
        assert record["status"] == "done", record["error"]
        assert record["bits"] == 32
        rows = [json.loads(line) for line in (out / name / "predictions.jsonl").open()]
        assert len(rows) == 12
        assert rows[0]["prompt"].endswith("<|im_start|>assistant\n")
        assert record["export"]["merged"] == (name in ("full", "lora")) == (out / name / "merged").exists()
        assert record["export"]["merged"] or record["export"]["reason"]
        assert (out / name / "adapter").exists() == (name in ("lora", "houlsby", "prefix"))
        assert record["peak_memory_bytes"] > 10**6
        # The table on stdout has a row for it, and nothing but the table is there.
        assert re.search(rf"^\| {name} +\|", printed, re.MULTILINE)
    assert all(line.startswith("|") for line in printed.splitlines())
    assert len(results["comparisons"]) == 10
    assert not list(out.rglob("checkpoint-*"))
    assert list(out.glob("*/training/logs/events*"))
    page = (out / "report.html").read_text()
    assert not re.search(r"""(src|href)=["']https?:""", page)
    assert "merged/ is a plain checkpoint" in (out / "report.md").read_text()


OWN_METRIC = """
import numpy as np
from dataclasses import replace
from workbench.evaluation import Metric

length = Metric(
    name="length", title="characters", summary="mean length in characters.", higher_is_better=False, worst=9e9, best=0,
    statistics=lambda answers: np.array([(len(a.prediction), 1.0) for a in answers]).reshape(-1, 2),
    score=lambda total: float(total[0] / total[1]), signature=lambda answers: "code points",
)
recipe = replace(recipe, metrics=("bleu", length), primary_metric="length")
"""


def test_a_recipes_own_metric_ranks_its_run(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe_file.write_text(recipe_file.read_text() + OWN_METRIC)
    out = tmp_path / "out"
    code, printed, _ = run(recipe_file, "--methods", "untuned,lora", "--bits", 32, "--out", out, capsys=capsys)
    assert code == 0
    assert "characters test" in printed
    results = json.loads((out / "results.json").read_text())
    assert results["metrics"]["length"]["higher_is_better"] is False
    assert [comparison["metric"] for comparison in results["comparisons"]] == ["length"]
    lengths = {record["method"]: record["metrics"]["length[test]"]["value"] for record in results["runs"]}
    for name, length in lengths.items():
        answers = [json.loads(line) for line in (out / name / "predictions.jsonl").open()]
        told = [len(answer["prediction"]) for answer in answers if answer["split"] == "test"]
        assert length == pytest.approx(sum(told) / len(told))
    assert load_tuned(RunFolder.open(out)).name == min(lengths, key=lambda name: lengths[name])


def test_a_saved_model_that_is_not_the_trained_one_is_told(
    recipe_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save = method_trial.save_adapter

    def damaging(model: Any, tokenizer: Any, folder: Path, *rest: str) -> int:
        size = save(model, tokenizer, folder, *rest)
        weights = folder / "adapter_model.safetensors"
        save_file({name: torch.zeros_like(tensor) for name, tensor in load_file(weights).items()}, weights)
        return size

    monkeypatch.setattr(method_trial, "save_adapter", damaging)
    monkeypatch.setattr(method_trial, "LOSS_TOLERANCE", 1e-3)  # so small a model learns little
    monkeypatch.setattr(method_trial, "SMALL_LOSS", 0.0)
    out = tmp_path / "out"
    assert run(recipe_file, "--methods", "lora", "--out", out, capsys=capsys)[0] == 0
    (record,) = json.loads((out / "results.json").read_text())["runs"]
    assert record["validation_loss_as_shipped"] > 1.001 * record["validation_loss_as_trained"]
    assert "the validation loss of what was saved" in record["warning"]
    assert "Warning: the validation loss of what was saved" in (out / "report.md").read_text()
    assert "Warning: the validation loss of what was saved" in (out / "report.html").read_text()
    assert "lora: the validation loss of what was saved" in caplog.text


def test_the_same_seed_gives_the_same_predictions(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        assert run(recipe_file, "--methods", "lora", "--out", tmp_path / name, capsys=capsys)[0] == 0
    a, b = ((tmp_path / name / "lora" / "predictions.jsonl").read_text() for name in ("a", "b"))
    assert a == b


def test_several_seeds_are_compared_together(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what no seed changes is carried through once."""
    out = tmp_path / "out"
    code, printed, _ = run(
        recipe_file, "--methods", "untuned,lora", "--seeds", 2, "--limit", 8, "--out", out, capsys=capsys
    )
    assert code == 0
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"untuned-seed0", "lora-seed0", "lora-seed1"}
    found = json.loads((out / "results.json").read_text())
    assert [(one["method"], one["seed"]) for one in found["runs"]] == [("untuned", 0), ("lora", 0), ("lora", 1)]
    untuned, lora = found["over_seeds"]
    assert (untuned["seeds"], lora["seeds"]) == ([0], [0, 1])
    label = f"{found['headline']}[test]"
    each = [one["metrics"][label]["value"] for one in found["runs"] if one["method"] == "lora"]
    assert lora["metrics"][label]["value"] == pytest.approx(sum(each) / 2)
    (pair,) = found["comparisons"]
    assert pair["seeds"] == 2
    assert printed.count("| lora ") == 1
    page = (out / "report.html").read_text()
    assert "Each seed" in page
    assert "Means of 2 seeds" in page
    code, printed, _ = run("--resume", out, "--methods", "prefix", capsys=capsys)
    assert code == 0
    assert [one["method"] for one in json.loads((out / "results.json").read_text())["over_seeds"]] == [
        "untuned", "lora", "prefix",
    ]  # fmt: skip


@pytest.mark.parametrize("checkpoint_kind", ["gpt2", "llama"])
def test_an_interrupted_run_is_resumed_without_repeating(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(method_training, "train", interrupted)
        assert run(recipe_file, "--out", out, "--limit", 8, capsys=capsys)[0] == 130
    before = (out / "untuned" / "predictions.jsonl").stat().st_mtime_ns
    assert 0 < seconds_noted(out / ".seconds") < 600
    (out / ".seconds").write_text("1000.5\n")  # what a part took that left no record
    code, printed, _ = run("--resume", out, capsys=capsys)
    assert code == 0
    assert (out / "untuned" / "predictions.jsonl").stat().st_mtime_ns == before
    assert "| lora" in printed
    assert 1000 < json.loads((out / "results.json").read_text())["seconds"]["total"] < 1600
    assert not (out / ".seconds").exists()


def test_methods_can_be_added_to_a_run(recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run(recipe_file, "--methods", "untuned", "--limit", 8, "--out", out, capsys=capsys)[0] == 0
    before = (out / "untuned" / "predictions.jsonl").stat().st_mtime_ns
    code, _, err = run("--resume", out, "--methods", "lorra", capsys=capsys)
    assert (code, "lora" in err) == (2, True)
    code, printed, _ = run("--resume", out, "--methods", "prefix,untuned", capsys=capsys)
    assert code == 0
    assert (out / "untuned" / "predictions.jsonl").stat().st_mtime_ns == before
    results = json.loads((out / "results.json").read_text())
    assert [record["method"] for record in results["runs"]] == ["untuned", "prefix"]
    assert len(results["comparisons"]) == 1
    assert "| prefix" in printed
    # It is one run from now on.
    assert run("--resume", out, capsys=capsys)[0] == 0
    assert len(json.loads((out / "results.json").read_text())["runs"]) == 2


def test_a_method_that_fails_is_recorded_and_the_others_go_on(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = recipe_file.read_text().replace('"num_virtual_tokens": 4', '"num_virtual_tokens": 100')
    recipe_file.write_text(text)
    out = tmp_path / "out"
    code, printed, _ = run(recipe_file, "--methods", "prefix,untuned", "--limit", 1, "--out", out, capsys=capsys)
    assert code == 1
    failed, done = json.loads((out / "results.json").read_text())["runs"]
    assert (failed["status"], done["status"]) == ("failed", "done")
    assert "100 virtual tokens" in failed["error"]
    assert "failed: 100 virtual tokens" in printed


@pytest.mark.parametrize("checkpoint_kind", ["gpt2", "llama"])
def test_check_shows_and_trains_nothing(recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed, _ = run(recipe_file, "--check", "--methods", ALL, capsys=capsys)
    assert code == 0
    assert re.search(r"^train +24 ", printed, re.MULTILINE)
    assert "<|im_start|>assistant\n⟦It costs €1, and takes 1 days.<|im_end|>⟧" in printed
    assert "optimizer steps" in printed
    for name in ALL.split(","):
        assert re.search(rf"^{name} ", printed, re.MULTILINE)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["{recipe}x"], "unknown recipe"),
        ([], "give a recipe"),
        (["{recipe}", "--methods", "lora,hulsby"], "did you mean houlsby"),
        (["{recipe}", "--model", "/no/such/folder"], "no checkpoint folder"),
        (["{recipe}", "--model", "nobody/nothing"], "Without a hub"),
        (["{recipe}", "--methods", "full", "--bits", "8"], "can't be held at 8 bits"),
        (["{recipe}", "--out", "{file}"], "can't write to"),
        (["{recipe}", "--out", "{file}/inside"], "can't write to"),
        (["{recipe}", "--out", "{full}"], "is not empty"),
        (["--resume", "{full}"], "is no run"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    arguments: list[str], expected: str, recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    places = {"recipe": recipe_file, "file": tmp_path / "file", "full": tmp_path / "full"}
    given = [argument.format(**places) for argument in arguments]
    if given and "--out" not in given and "--resume" not in given:
        given += ["--out", str(tmp_path / "out")]
    code, printed, err = run(*given, capsys=capsys)
    assert (code, printed) == (2, "")
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert expected in err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    assert not (tmp_path / "out" / "results.json").exists()


def test_a_wrong_setting_is_found_before_any_training(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        recipe_file.read_text()
        .replace('{"r": 4}', '{"rank": 4}')
        .replace('"houlsby": {"bottleneck_size": 4', '"houlsby": {"bottleneck_size": 0')
    )
    recipe_file.write_text(text)
    code, _, err = run(recipe_file, "--methods", ALL, "--out", tmp_path / "out", capsys=capsys)
    assert code == 2
    assert "methods: 2 problems" in err
    assert "unexpected keyword argument 'rank'" in err
    assert "bottleneck_size must be at least 1" in err
    assert not (tmp_path / "out" / "untuned").exists()


def test_a_broken_data_row_is_named(recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write('{"id": "x", "language": "en", "messages": []}\n')
    code, _, err = run(recipe_file, "--out", tmp_path / "out", capsys=capsys)
    assert code == 2
    assert "train.jsonl:25: no messages" in err


def test_a_full_disk_is_one_line_and_exit_1(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "predictions.jsonl")

    monkeypatch.setattr(method_trial.files, "write_json_lines", full)
    code, printed, err = run(recipe_file, "--methods", "untuned", "--out", tmp_path / "out", capsys=capsys)
    assert (code, printed) == (1, "")
    assert "error: the disk is full while writing predictions.jsonl" in err
    assert not (tmp_path / "out" / "untuned" / "predictions.jsonl").exists()


def test_a_full_disk_of_which_a_writer_says_only_that_it_failed(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("unexpected pos 20137856 vs 20137748")

    monkeypatch.setattr(method_training, "train", failing)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    code, printed, err = run(recipe_file, "--methods", "lora", "--out", tmp_path / "out", capsys=capsys)
    assert (code, printed) == (1, "")
    assert "error: the disk is full" in err
    assert "Traceback" not in err


def test_a_changed_recipe_is_not_resumed(recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run(recipe_file, "--methods", "untuned", "--limit", 2, "--out", out, capsys=capsys)[0] == 0
    recipe_file.write_text(recipe_file.read_text() + "\n")
    code, _, err = run("--resume", out, capsys=capsys)
    assert code == 2
    assert "has changed since" in err


def test_a_module_beside_the_recipe_is_a_part_of_it(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, beside = tmp_path / "out", recipe_file.with_name("beside_the_recipe.py")
    beside.write_text("LIMIT = 7\n")
    recipe_file.write_text("import beside_the_recipe\n" + recipe_file.read_text())
    assert run(recipe_file, "--methods", "untuned", "--limit", 2, "--out", out, capsys=capsys)[0] == 0
    assert list(json.loads((out / "options.json").read_text())["neighbours"]) == ["beside_the_recipe.py"]
    beside.write_text("raise SystemExit('it ran')\n")
    code, _, err = run("--resume", out, capsys=capsys)
    assert code == 2
    assert f"{beside}, which {recipe_file} imports, has changed since" in err


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": 7}, {"day": "never"}, {"seeds": "many"}, {"methods": {"a": 1}}, {"plan": {"minutes": []}},
        {"bits": None},
    ],
)  # fmt: skip
def test_broken_options_are_told_in_a_line(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    file = tmp_path / "out" / "options.json"
    file.parent.mkdir()
    usual = {
        "recipe": str(recipe_file), "recipe_sha256": None, "methods": None, "model": None, "bits": 32, "seed": 0,
        "seeds": 1, "limit": None,
    }  # fmt: skip
    for text in (json.dumps({**usual, **change}), "[" * 100_000, "[]", ""):
        file.write_text(text)
        code, _, err = run("--resume", file.parent, capsys=capsys)
        assert code == 2
        assert "can't be read as the options of a run" in err
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize("checkpoint_kind", ["gpt2", "llama"])
def test_adapters_on_a_base_of_8_bits(recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    methods = "untuned,lora,houlsby,prefix"
    assert run(recipe_file, "--methods", methods, "--bits", 8, "--out", out, capsys=capsys)[0] == 0
    runs = {record["method"]: record for record in json.loads((out / "results.json").read_text())["runs"]}
    assert {record["bits"] for record in runs.values()} == {8}
    shipped = runs["lora"]["export"]
    assert shipped["merged"]
    assert "trained on the base at 8 bits, merged into its original weights in float32" in shipped["base"]
    for method in ("lora", "houlsby", "prefix"):
        losses = [runs[method][f"validation_loss_as_{state}"] for state in ("trained", "shipped")]
        assert losses[1] == pytest.approx(losses[0], rel=0.05)
        assert runs[method]["warning"] is None


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("checkpoint_kind", ["gpt2", "llama"])
def test_the_loading_that_the_card_shows_works(
    recipe_file: Path, checkpoint: Path, bits: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ("--methods", "houlsby,prefix,prompt", "--bits", bits, "--limit", 4, "--out", out)
    assert run(recipe_file, *arguments, capsys=capsys)[0] == 0
    for name in ("houlsby", "prefix", "prompt"):
        card = (out / name / "adapter" / "README.md").read_text()
        code = card.partition("```python\n")[2].partition("```")[0]
        assert ("load_in_8bit" in code) == (bits == 8 and name != "prompt")
        code = code.replace("PATH OF THE BASE", str(checkpoint)).replace('"adapter"', repr(str(out / name / "adapter")))
        names: dict[str, Any] = {}
        exec(code, names)
        ids = names["tokenizer"]("Hello", return_tensors="pt")["input_ids"]
        assert names["model"](input_ids=ids).logits.isfinite().all()
    card = (out / "prompt" / "merged" / "README.md").read_text()
    assert "the chat template puts them in front" in card
    assert "raw text needs them in front, too" in card


def test_what_is_quantized_already_is_refused(
    recipe_file: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = json.loads((checkpoint / "config.json").read_text())
    for kind, bits, said in (("gptq", 16, "give the checkpoint"), ("mxfp4", 8, "take --bits 16")):
        settings["quantization_config"] = {"quant_method": kind}
        (checkpoint / "config.json").write_text(json.dumps(settings))
        code, _, err = run(recipe_file, "--bits", bits, "--out", tmp_path / "out", capsys=capsys)
        assert code == 2
        assert said in err


def test_a_failed_export_leaves_the_scores(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: Any, **kwargs: Any) -> Any:
        raise ValueError("NaNs detected")

    monkeypatch.setattr(method_trial, "merge", failing)
    out = tmp_path / "out"
    assert run(recipe_file, "--methods", "lora", "--limit", 4, "--out", out, capsys=capsys)[0] == 0
    (record,) = json.loads((out / "results.json").read_text())["runs"]
    assert record["status"] == "done"
    assert record["metrics"]["bleu"]["value"] >= 0
    assert record["export"]["merged"] is False
    assert "NaNs detected; what was trained is in adapter/" in record["export"]["reason"]


def test_what_was_done_survives_a_second_interruption(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    train = method_training.train
    answer = {"lora": RuntimeError("out of memory"), "houlsby": None}

    def failing(*args: Any, **kwargs: Any) -> Any:
        if error := answer[kwargs["title"]]:
            raise error
        return train(*args, **kwargs)

    monkeypatch.setattr(method_training, "train", failing)
    arguments = ("--methods", "untuned,lora,houlsby", "--limit", 8, "--bits", 32, "--out", out)
    assert run(recipe_file, *arguments, capsys=capsys)[0] == 1
    error = next(r["error"] for r in json.loads((out / "results.json").read_text())["runs"] if r["method"] == "lora")
    assert error.startswith("out of memory: with 1 row at once: out of memory.")  # eight, four and two were tried
    assert "gradient_accumulation_steps" not in error
    # 15,360 numbers in matrices of layers, and 10,400 others, which are never quantized
    assert "(the base alone takes 103 kB at 32 bits, 51.5 kB at 16, 36.2 kB at 8, 29 kB at 4)" in error
    answer["lora"] = KeyboardInterrupt()  # type: ignore[assignment]
    assert run("--resume", out, capsys=capsys)[0] == 130
    runs = json.loads((out / "results.json").read_text())["runs"]
    assert [r["method"] for r in runs if r["status"] == "done"] == ["untuned", "houlsby"]


NOTED = """
from dataclasses import replace
from pathlib import Path

def with_notes(row):
    notes = {"role": "system", "content": Path(__file__).with_name("notes.txt").read_text()}
    return conversation({**row, "messages": [notes, *row["messages"]]})

recipe = replace(recipe, row_to_examples=with_notes)
"""


@pytest.mark.parametrize(("changed", "more"), [("test.jsonl", "\n"), ("notes.txt", " Abroad they are not.")])
def test_changed_data_are_not_compared_with_what_was_done(
    recipe_file: Path, tmp_path: Path, changed: str, more: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rows, or a document that the recipe reads beside them."""
    out = tmp_path / "out"
    (tmp_path / "notes.txt").write_text("Transfers are free.")
    recipe_file.write_text(recipe_file.read_text() + NOTED)
    assert run(recipe_file, "--methods", "untuned", "--limit", 2, "--out", out, capsys=capsys)[0] == 0
    (tmp_path / changed).write_text((tmp_path / changed).read_text() + more)
    code, _, err = run("--resume", out, capsys=capsys)
    assert code == 2
    assert "or what the recipe makes examples of beside them, have changed since" in err


def test_resume_stands_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run("--resume", tmp_path, "--check", capsys=capsys)
    assert code == 2
    assert "give it alone" in err


EVIL = "\x1b]0;owned\x07\x1b[2J"


def in_train(folder: Path, change: Callable[[str], str]) -> None:
    """Change the first training row."""
    first, *others = (folder / "train.jsonl").read_text().splitlines()
    (folder / "train.jsonl").write_text("\n".join([change(first), *others]) + "\n")


def test_a_console_prints_what_it_can_and_rows_do_nothing_to_it(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    in_train(tmp_path, lambda row: row.replace("What", f"{json.dumps(EVIL)[1:-1]} What", 1))
    arguments = (str(recipe_file), "--check", "--limit", "4", "--methods", "untuned")
    command, environment = [sys.executable, "-m", "workbench.run", *arguments], {"PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, capture_output=True, check=False, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    assert b"\x1b" not in done.stdout + done.stderr
    _, shown, _ = run(*arguments, capsys=capsys)
    for printed, mark in ((done.stdout.decode("cp1252"), "?It costs"), (shown, "⟦It costs")):
        assert mark in printed
        assert r"\x1b]0;owned\x07" in printed


def test_wrong_rows_and_names_do_nothing_to_a_terminal(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    in_train(tmp_path, lambda row: json.dumps({"id": f"{EVIL}x", "messages": 7}))
    code, _, error = run(recipe_file, "--check", capsys=capsys)
    assert code == 2
    assert "\x1b" not in error
    code, _, error = run(recipe_file, "--methods", "\x1b[31mlora", capsys=capsys)
    assert error.startswith(r"error: unknown method '\x1b[31mlora'")


def test_activations_that_are_computed_anew_change_nothing(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    found = {}
    for name, more in (("kept", ""), ("anew", ', extra={"gradient_checkpointing": True}')):
        recipe_file.write_text(recipe_file.read_text().replace("validations=2", f"validations=2{more}"))
        arguments = ("--methods", "lora,houlsby,prefix", "--limit", 8, "--bits", 32, "--out", tmp_path / name)
        assert run(recipe_file, *arguments, capsys=capsys)[0] == 0
        assert ("prefix keeps its activations" in caplog.text) is (name == "anew")
        found[name] = json.loads((tmp_path / name / "results.json").read_text())["runs"]
    for kept, anew in zip(found["kept"], found["anew"], strict=True):
        for point, other in zip(kept["curve"], anew["curve"], strict=True):
            assert other == pytest.approx(point, abs=1e-5)
