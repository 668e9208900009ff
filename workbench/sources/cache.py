"""The cache folder of this machine: what was fetched and made once, and checksums of large files."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

from workbench import files
from workbench.errors import UserError


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


def cached_sha256(path: Path) -> str:
    """Checksum of a file, in hexadecimal; one whose size and time are as before is not read again."""
    state = path.stat()
    return _sha256_of(path.resolve(), state.st_size, state.st_mtime_ns)


@cache
def _sha256_of(path: Path, size: int, changed: int) -> str:
    """Of a file that has this size, and was changed last at this time in nanoseconds."""
    kept = cache_folder() / "checksums" / hashlib.sha256(f"{path}\n{size}\n{changed}".encode()).hexdigest()
    with suppress(OSError):
        return kept.read_text(encoding="ascii")
    found = files.sha256_of(path)
    with suppress(OSError):  # the next command reckons it anew
        kept.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(kept, found)
    return found
