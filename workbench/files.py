"""Files and folders that appear whole or not at all: written aside, then renamed."""

import errno
import glob
import hashlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil


def _umask() -> int:
    """What this process's user wants no new file to allow; there is no other way to ask."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


# Of new files and folders, as the user wants them: temporary ones are the user's alone.
FILE_MODE, FOLDER_MODE = 0o666 & ~_umask(), 0o777 & ~_umask()


# With less than this left, a disk is full.
FULL_BYTES = 2**20
# How names end of what is written aside; a process that is killed leaves it.
ASIDE = ".part"


def _aside(path: Path) -> str:
    """How names begin of what this process writes aside, to be renamed to `path`."""
    return f".{path.name}.{_host()}-{os.getpid()}."


@cache
def _host() -> str:
    """This machine, or container, told from others on the same disk and not by its name."""
    where = socket.gethostname()
    with suppress(OSError):  # of Linux: a process's number means something in its namespace only
        where += str(Path("/proc/self/ns/pid").readlink())
    return hashlib.sha256(where.encode()).hexdigest()[:8]


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes were writing anywhere in `folder`; nobody else may write there meanwhile."""
    for left in list(folder.rglob(f"*{ASIDE}")):
        _remove(left)


def _remove_left_beside(path: Path) -> None:
    """Remove what processes of this machine wrote aside for `path` that are no more."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.{_host()}-*{ASIDE}"):
        pid = left.name.removeprefix(f".{path.name}.{_host()}-").partition(".")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            _remove(left)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def temporary_folder(folder: Path, name: str) -> Iterator[Path]:
    """Yield a new folder in `folder` that is removed at the end; one that a killed process left goes, too."""
    _remove_left_beside(folder / name)
    with tempfile.TemporaryDirectory(dir=folder, prefix=_aside(folder / name), suffix=ASIDE) as made:
        yield Path(made)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in one step: a reader sees the old file or the new one, never half of it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_aside(path), suffix=ASIDE)
    aside = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.chmod(FILE_MODE)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def is_of_full_disk(error: Exception) -> bool:
    """Whether an error says that the disk is full; safetensors says so in words."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)


def raise_if_full(error: Exception, folder: Path) -> None:
    """Raise an error as that of a full disk, if it is one; PyTorch says only that it failed.

    Args:
        folder: where something was being written.

    Raises:
        OSError: the disk is full.
    """
    if isinstance(error, OSError) and is_of_full_disk(error):
        raise error
    if is_of_full_disk(error) or shutil.disk_usage(folder).free < FULL_BYTES:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder)) from error


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON. Raises ValueError for NaN and infinities, which JSON does not know."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read what `write_json_lines` wrote."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def sha256_of(path: Path) -> str:
    """Checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path` and rename it to `path` at the end.

    If the block raises, the folder is removed and an older `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_beside(path)
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=_aside(path), suffix=ASIDE))
    try:
        yield aside
        for part in aside.rglob("*"):
            part.chmod(FOLDER_MODE if part.is_dir() else FILE_MODE)  # whatever a library thinks of its own files
        aside.chmod(FOLDER_MODE)
        if path.exists():
            shutil.rmtree(path)
        aside.rename(path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
