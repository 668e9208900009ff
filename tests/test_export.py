"""`workbench export`: a plain checkpoint of a finished run, later."""

import json
from pathlib import Path

import pytest

from tiny import write_recipe
from workbench.export.__main__ import main
from workbench.export.formats import verdict
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


def test_bfloat16_is_rounded_once_from_the_base_that_was_asked_for(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(verdict, "BASE_TIMES", 0)  # so small a model learned little
    arguments = [str(finished), "--method", "lora", "--base", "original", "--to"]
    assert main([*arguments, str(tmp_path / "whole")]) == 0
    assert main([*arguments, str(tmp_path / "half"), "--precision", "bfloat16", "--accept-loss"]) == 0
    assert "beside what was trained" in capsys.readouterr().out
    half = AutoModelForCausalLM.from_pretrained(tmp_path / "half")
    assert half.dtype == torch.bfloat16
    for name, weight in AutoModelForCausalLM.from_pretrained(tmp_path / "whole").state_dict().items():
        assert torch.equal(half.state_dict()[name], weight.to(torch.bfloat16))


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
