"""What a run holds at each stage: told beforehand, kept to, and half of it in bfloat16."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny import SETTINGS, make_model, write_recipe
from workbench.errors import UserError
from workbench.export import proof as proof_module
from workbench.export.__main__ import main as export
from workbench.export.formats import verdict
from workbench.methods import NotMergeable, find_method
from workbench.models import attach, held_bytes, load_dequantized, load_model, precision_of
from workbench.run import memory
from workbench.run.__main__ import main
from workbench.run.memory import require_memory, stage_bytes


@pytest.mark.slow
def test_merging_writing_and_proving_hold_the_base_and_a_shard(tmp_path: Path) -> None:
    """Under a ceiling on what a process may reserve, with a model of several shards."""
    script = Path(__file__).with_name("ceiling.py")
    command = [sys.executable, str(script), str(tmp_path), "lora", "float32"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("name", ["lora", "dora", "ia3", "parallel"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_merge_into_bfloat16_is_rounded_once(name: str, kind: str) -> None:
    method = find_method(name)
    assert not isinstance(method.merge, NotMergeable)
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        base = make_model(kind)
        base = base.to(torch.bfloat16).to(dtype)  # the same weights, held otherwise
        model: Any = attach(base, method, SETTINGS.get(name, {}), list(range(3, 60)), seed=0)
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.copy_(torch.randn(parameter.shape) * 0.1 + (name == "ia3"))
        merged, _ = method.merge(model, None)
        found.append({key: value.to(torch.bfloat16) for key, value in merged.state_dict().items()})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_a_sum_that_is_too_large_for_its_precision_is_refused() -> None:
    method = find_method("lora")
    assert not isinstance(method.merge, NotMergeable)
    model: Any = attach(make_model("llama").to(torch.float16), method, SETTINGS["lora"], [1], seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.fill_(1e3)
    with pytest.raises(ValueError, match="too large for float16"):
        method.merge(model, None)


@pytest.mark.parametrize("bits", [8, 4])
def test_dequantized_weights_are_those_that_training_saw(bits: int, tmp_path: Path) -> None:
    """In float32 and in bfloat16 the same, but for one rounding."""
    make_model("gpt2", width=64).save_pretrained(tmp_path)
    fine, coarse = (load_dequantized(tmp_path, bits, shipped_bits=shipped).state_dict() for shipped in (32, 16))
    original = load_model(tmp_path, 32).state_dict()
    assert all(torch.equal(coarse[key], fine[key].to(torch.bfloat16)) for key in fine)
    changed = [key for key in fine if not torch.allclose(fine[key], original[key], rtol=1e-2, atol=1e-4)]
    assert changed
    assert all("attn" in key or "mlp" in key for key in changed)


@pytest.mark.slow
def test_a_run_in_bfloat16_ships_bfloat16(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(proof_module, "ROUNDED_BASE_DISTANCE", 0)  # so small a model learned little
    monkeypatch.setattr(proof_module, "TOKEN_TOLERANCE", 0.8)
    recipe, out = write_recipe(tmp_path), tmp_path / "out"
    arguments = [str(recipe), "--precision", "bfloat16", "--bits", "16", "--out", str(out)]
    assert main([*arguments, "--methods", "lora,parallel,prompt,full"]) == 0
    runs = json.loads((out / "results.json").read_text())["runs"]
    assert [run["export"]["reason"] for run in runs] == [None] * 4
    assert {run["precision"] for run in runs} == {"bfloat16"}
    capsys.readouterr()
    monkeypatch.setattr(verdict, "BASE_TIMES", 0)
    for method, more in (
        ("lora", ["--format", "gguf", "--quantize", "q8_0", "--accept-loss"]),
        ("lora", ["--format", "peft", "--accept-loss"]),
        ("full", ["--precision", "float16", "--accept-loss"]),
        ("prompt", []),
    ):
        to = tmp_path / f"{method}{len(more)}"
        assert export([str(out), "--method", method, "--to", str(to), *more]) == 0, capsys.readouterr()
    assert export([str(out), "--method", "lora", "--to", str(tmp_path / "fine"), "--precision", "float32"]) == 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "fine").dtype == torch.float32
    assert export([str(out), "--method", "full", "--to", str(tmp_path / "x"), "--precision", "float32"]) == 2
    assert "full was kept in bfloat16" in capsys.readouterr().err
    for run in runs:
        merged = AutoModelForCausalLM.from_pretrained(out / run["method"] / "merged")
        assert merged.dtype == torch.bfloat16


def test_stages_are_reckoned_from_shapes() -> None:
    """A model of 7 thousand million, as its adapter of 20 million is trained at 4 bits and shipped in bfloat16."""
    width, layers = 4096, 32
    shapes = {"embed_tokens": (32000, width), "lm_head": (32000, width)}
    for layer in range(layers):
        shapes |= {f"{layer}.{name}": (width, width) for name in "qkvo"}
        shapes |= {f"{layer}.{name}": (11008, width) for name in ("gate", "up", "down")}
    weights = 6.74e9
    assert held_bytes(shapes, 16) == pytest.approx(2 * weights, rel=0.01)
    lora = find_method("lora")
    trained = precision_of(lora, 4, mergeable=True, shipped_bits=16)
    found = stage_bytes(shapes, lora, trained, 20_000_000, 16)
    assert found.training == pytest.approx(0.53125 * 6.48e9 + 2 * 0.26e9 + 16 * 20e6, rel=0.01)
    quantized = 0.53125 * 6.48e9 + 2 * 0.26e9
    assert found.scoring == pytest.approx(2 * weights + 4 * 20e6 + quantized, rel=0.01)
    assert found.merging == pytest.approx(2 * weights + 4 * 20e6 + 16 * 4096 * 11008, rel=0.01)
    assert found.proving == pytest.approx(2 * weights, rel=0.01)
    assert max(vars(found).values()) < 24e9
    whole = stage_bytes(shapes, lora, precision_of(lora, 16, mergeable=True), 20_000_000, 32)
    assert whole.scoring == pytest.approx(4 * weights + 80e6, rel=0.01)
    full = find_method("full")
    of_full = stage_bytes(shapes, full, precision_of(full, 16, mergeable=True), int(weights), 32)
    assert of_full.training == pytest.approx(16 * weights, rel=0.01)
    untuned = find_method("untuned")
    assert stage_bytes(shapes, untuned, precision_of(untuned, 16, mergeable=False), 0, 32).training == 0


def test_what_can_not_be_scored_is_refused_before_it_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path)
    checkpoint = tmp_path / "base"
    there = held_bytes(memory.weight_shapes(checkpoint), 16)
    monkeypatch.setattr(memory, "memory_there", lambda: there)
    assert main([str(recipe), "--out", str(tmp_path / "out")]) == 2
    assert "--precision bfloat16 takes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    require_memory(checkpoint, "bfloat16")
    monkeypatch.setattr(memory, "memory_there", lambda: there - 1)
    with pytest.raises(UserError, match="take a smaller checkpoint"):
        require_memory(checkpoint, "bfloat16")


def test_a_check_tells_the_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path)
    assert main([str(recipe), "--check", "--precision", "bfloat16"]) == 0
    printed = capsys.readouterr().out
    table = printed[printed.index("## Memory of weights") :].splitlines()
    assert "bfloat16" in table[0]
    assert table[1].split() == ["training", "scoring", "merging", "proving", "disk"]
    assert [line.split()[0] for line in table[2:4]] == ["untuned", "lora"]
    assert table[2].split()[-2:] == ["0", "B"]
