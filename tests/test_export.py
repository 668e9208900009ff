"""`workbench export`: a plain checkpoint of a finished run, later."""

import json
from pathlib import Path

import pytest

from tiny import write_recipe
from workbench.export import proof as proof_module
from workbench.export.__main__ import main
from workbench.run.__main__ import main as run_main


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run at 8 bits, which no test changes."""
    folder = tmp_path_factory.mktemp("run")
    recipe = write_recipe(folder)
    out, methods = folder / "out", "lora,houlsby,parallel"
    assert run_main([str(recipe), "--methods", methods, "--bits", "8", "--limit", "8", "--out", str(out)]) == 0
    return out


def test_it_exports_and_says_how_equal_it_is(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM

    for base in ("original", "dequantized"):
        to = tmp_path / base
        assert main([str(finished), "--method", "parallel", "--to", str(to), "--base", base]) == 0
        printed = capsys.readouterr().out
        assert "a plain checkpoint in float32" in printed
        assert "the same answer on 100.0%" in printed
        assert AutoModelForCausalLM.from_pretrained(to).config.intermediate_size == 48 + 4
    recorded = json.loads((finished / "results.json").read_text())["runs"][2]
    losses = recorded["export"]["validation_loss_by_base"]
    assert set(losses) == {"original", "dequantized"}
    assert recorded["validation_loss_as_shipped"] == min(losses.values())
    assert ("dequantized" in recorded["export"]["base"]) == (losses["dequantized"] < losses["original"])


def test_bfloat16_is_held_to_texts_or_to_tokens(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    arguments = [str(finished), "--method", "lora", "--precision", "bfloat16", "--base", "original", "--to"]
    monkeypatch.setattr(proof_module, "ROUNDED_BASE_DISTANCE", 0)  # so small a model learned little
    monkeypatch.setattr(proof_module, "GREEDY_TOLERANCE", 1.01)  # no text is equal enough
    assert main([*arguments, str(tmp_path / "texts")]) == 1
    assert "its greedy answers equal the trained model's" in capsys.readouterr().out
    assert not (tmp_path / "texts").exists()
    assert main([*arguments, str(tmp_path / "tokens"), "--accept-rounding"]) == 0
    assert "the same likeliest token at" in capsys.readouterr().out
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "tokens").dtype == torch.bfloat16
    monkeypatch.setattr(proof_module, "TOKEN_TOLERANCE", 1.01)
    assert main([*arguments, str(tmp_path / "none"), "--accept-rounding"]) == 1
    assert "its likeliest tokens equal the trained model's" in capsys.readouterr().out
    assert main([str(finished), "--method", "lora", "--to", str(tmp_path / "x"), "--accept-rounding"]) == 2
    assert "float32 is not rounded" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "lroa", "--to", "new"], "did you mean lora"),
        (["--method", "houlsby", "--to", "new"], "can't become a plain checkpoint: a bottleneck"),
        (["--method", "lora", "--to", "."], ". exists"),
        (["--method", "lora", "--seed", "7", "--to", "new"], "lora was not run with seed 7"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    finished: Path,
    tmp_path: Path,
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(finished), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_what_is_no_run_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--method", "lora", "--to", str(tmp_path / "new")]) == 2
    assert "holds no" in capsys.readouterr().err
