"""`workbench export --push`: an export on a hub, of which `hub.py` is a stand-in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from hub import Hub, served
from tiny import flip_a_bit
from workbench import files
from workbench.export.__main__ import main as export


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with served() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.address)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield found


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A folder with a manifest, as an export leaves one."""
    folder = tmp_path / "bank-model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 20)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "README.md").write_text("# card", encoding="utf-8")
    checksums = {path.name: files.sha256_of(path) for path in sorted(folder.iterdir())}
    files.write_json(folder / "MANIFEST.json", {"recipe": "tiny", "method": "lora", "seed": 0, "files": checksums})
    return folder


def test_an_export_is_uploaded_whole_and_private(hub: Hub, exported: Path, capsys: Any) -> None:
    hub.files = {".gitattributes": b"", "config.json": b"of an older export"}
    assert export(["--verify", str(exported), "--push", "bank/model"]) == 0
    assert hub.files == {".gitattributes": b"", **{path.name: path.read_bytes() for path in exported.iterdir()}}
    assert hub.created["visibility"] == "private"
    assert hub.tokens == {"Bearer hf_secret", None}  # none goes along with the bytes, whose address is a secret itself
    said = capsys.readouterr()
    assert f"uploaded to {hub.address}/bank/model" in said.out
    assert "hf_secret" not in said.out + said.err


def test_what_is_not_what_was_proven_stays_here(hub: Hub, exported: Path, capsys: Any) -> None:
    flip_a_bit(exported / "model.safetensors")
    assert export(["--verify", str(exported), "--push", "bank/model"]) == 1
    assert hub.files == {}
    assert hub.tokens == set()
    assert "model.safetensors has changed" in capsys.readouterr().out


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_hub_that_holds_other_bytes_is_noticed(hub: Hub, exported: Path, file: str, capsys: Any) -> None:
    hub.spoil = file
    assert export(["--verify", str(exported), "--push", "bank/model"]) == 2
    assert f"the hub has other bytes of {file}" in capsys.readouterr().err


def test_a_repository_with_other_files_is_left_as_it_is(hub: Hub, exported: Path, capsys: Any) -> None:
    hub.files = {"adapter_config.json": b"{}"}
    assert export(["--verify", str(exported), "--push", "bank/model"]) == 2
    assert "files that are no part of this export (adapter_config.json)" in capsys.readouterr().err
    assert hub.files == {"adapter_config.json": b"{}"}


def test_a_clone_of_a_repository_is_verified(exported: Path) -> None:
    """A hub keeps files of its own beside those of the export."""
    (exported / ".gitattributes").write_text("*.safetensors filter=lfs", encoding="utf-8")
    (exported / ".cache" / "huggingface").mkdir(parents=True)
    (exported / ".cache" / "huggingface" / "config.json.metadata").write_text("", encoding="utf-8")
    assert export(["--verify", str(exported)]) == 0


def test_mistakes_are_told_in_a_line(hub: Hub, exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def said(name: str) -> str:
        assert export(["--verify", str(exported), "--push", name]) == 2
        error = str(capsys.readouterr().err)
        assert error.count("\n") == 1
        assert "hf_secret" not in error
        return error

    assert "--push bank model" in said("bank model")
    hub.refuses = True
    assert "the hub refuses: You don't have the rights" in said("bank/model")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "ConnectError" in said("bank/model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in said("bank/model")
    assert export(["--push", "bank/model"]) == 2
    assert "missing: run" in capsys.readouterr().err
