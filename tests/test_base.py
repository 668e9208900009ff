"""A run belongs to the base with which it was begun."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from workbench.chat.__main__ import main as chat
from workbench.export.__main__ import main as export
from workbench.run.__main__ import main as run
from workbench.sources import base_sha256


def other_weights(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    changed = {name: value + 0.2 * torch.randn_like(value) for name, value in load_file(path).items()}
    save_file(changed, path, metadata={"format": "pt"})


def test_the_same_weights_are_the_same_base_wherever_they_lie(checkpoint: Path, tmp_path: Path) -> None:
    first = base_sha256(checkpoint)
    moved = checkpoint.rename(tmp_path / "moved")
    assert base_sha256(moved) == first
    os.utime(moved / "model.safetensors")
    assert base_sha256(moved) == first
    other_weights(moved)
    assert base_sha256(moved) != first


def test_another_base_in_its_place_is_refused(recipe_file: Path, checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    assert run([str(recipe_file), "--methods", "untuned,lora", "--out", str(out)]) == 0
    known = base_sha256(checkpoint)
    assert json.loads((out / "options.json").read_text())["base_sha256"] == known
    assert json.loads((out / "results.json").read_text())["checkpoint"]["base_sha256"] == known
    before = (out / "results.json").read_bytes()
    kept = (checkpoint / "model.safetensors").read_bytes()
    other_weights(checkpoint)
    for command, arguments in (
        (run, ["--resume", str(out), "--methods", "rslora"]),
        (export, [str(out), "--method", "lora", "--to", str(tmp_path / "exported")]),
        (chat, [str(out), "--method", "untuned"]),
    ):
        capsys.readouterr()
        assert command(arguments) == 2, command
        assert "is not the one with which" in capsys.readouterr().err
    assert (out / "results.json").read_bytes() == before
    assert not (tmp_path / "exported").exists()
    (checkpoint / "model.safetensors").write_bytes(kept)
    assert run(["--resume", str(out), "--methods", "rslora"]) == 0


def test_what_is_unchanged_is_not_read_again(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.sources import cache

    first = base_sha256(checkpoint)
    cache._sha256_of.cache_clear()
    monkeypatch.setattr("workbench.files.sha256_of", lambda path: pytest.fail(f"{path} was read again"))
    assert base_sha256(checkpoint) == first
