"""Formats of data files. To add one, put a module with a tuple `READERS` in this folder; it is found by being there.

Another package adds its own by an entry point of the group `workbench.readers`, see `workbench.plugins`.
"""

from functools import cache
from pathlib import Path

from workbench.errors import UserError, unknown
from workbench.plugins import registered
from workbench.sources.readers.reader import DataFile, Opened, Reader, Row, require_options

__all__ = ["DataFile", "Opened", "Reader", "Row", "known_readers", "open_file"]

# Bytes of a file by which readers of one suffix are told apart.
HEAD = 65536


@cache
def known_readers() -> dict[str, Reader]:
    """All readers, by name, in the order of the modules of this folder; those of other packages behind them.

    Raises:
        UserError: another package's reader can't be loaded, or has a name that is taken.
    """
    return registered(__name__, __path__, "READERS", Reader, "workbench.readers")


def open_file(file: DataFile) -> Opened:
    """Look at a data file and open it.

    Raises:
        UserError: it is not there, of a kind that no reader reads, or not what its reader reads.
    """
    path = Path(file.path)
    if not path.is_file():
        where = "" if path.is_absolute() else f" (looked for in {Path.cwd()})"
        raise UserError(f"no data file at {path}{where}")
    reader = _reader(file, path)
    require_options(reader, file)
    return reader.read(file)


def _reader(file: DataFile, path: Path) -> Reader:
    readers = known_readers()
    if file.format is not None:
        if file.format not in readers:
            raise unknown("format", file.format, readers)
        return readers[file.format]
    suffix = path.suffix.lower()
    some = [reader for reader in readers.values() if suffix in reader.suffixes]
    if not some:
        kinds = unknown("kind of data file", suffix or path.name, {s for r in readers.values() for s in r.suffixes})
        raise UserError(f"{kinds}; or say what it is: {file.told(format='csv')}")
    with path.open("rb") as opened:
        head = opened.read(HEAD)
    return next((reader for reader in some if reader.recognises(head)), some[-1])
