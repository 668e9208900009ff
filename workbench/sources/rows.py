"""Rows of data from a file, a function or a dataset of the hub, each with the place it came from."""

import hashlib
import json
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from workbench import files
from workbench.errors import UserError
from workbench.sources.readers import DataFile, Opened, Row, open_file

Source = str | Path | DataFile | Callable[[], Iterable[Mapping[str, Any]]]


def read_rows(source: Source) -> Iterator[Row]:
    """Read the rows of `source` one after another.

    Args:
        source: path of a file that a reader of `workbench.sources.readers` knows, or a `DataFile` that says more of
            one; `hub:NAME[:SPLIT]` for `datasets`; or a function that returns rows, for data in any other form.

    Raises:
        UserError: it is not there, of another kind, empty, or has malformed rows: all of them are named, when the
            last row has been read.
    """
    yield from open_rows(source).rows


def open_rows(source: Source) -> Opened:
    """Look at `source`; its rows are read when they are asked for.

    Raises:
        UserError: as `read_rows`; what concerns rows, when they are read.
    """
    if callable(source):
        opened = Opened("rows of a function", _from_function(source))
    elif not isinstance(source, DataFile) and str(source).startswith("hub:"):
        opened = Opened("dataset of the hub", _from_hub(str(source)))
    else:
        opened = open_file(source if isinstance(source, DataFile) else DataFile(source))
    return Opened(opened.format, _not_empty(opened.rows, name_of(source)), opened.is_usual)


def _from_function(function: Callable[[], Iterable[Mapping[str, Any]]]) -> Iterator[Row]:
    """Rows that a function gives.

    Raises:
        UserError: it fails.
    """
    name, number = name_of(function), 0
    try:
        for number, row in enumerate(function(), 1):
            yield Row(f"{name}:{number}", row)
    except UserError:
        raise
    except Exception as error:
        if files.is_of_full_disk(error):
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}, line {frame.lineno}"
        raise UserError(f"{name} failed behind row {number}: {type(error).__name__}: {error} ({where})") from error


def _not_empty(rows: Iterable[Row], name: str) -> Iterator[Row]:
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise UserError(f"{name} holds no rows")


def name_of(source: Source) -> str:
    """A source as messages name it."""
    return getattr(source, "__name__", type(source).__name__) if callable(source) else str(source)


class Fingerprint:
    """What tells whether rows have changed: the sha256 of a file, or of what a function gave; a hub's name.

    Args:
        source: of which every row is shown to `add`.
    """

    def __init__(self, source: Source) -> None:
        self._source, self._digest = source, hashlib.sha256()

    def add(self, row: Row) -> None:
        """Take note of a row."""
        if callable(self._source):
            line = json.dumps(row.values, sort_keys=True, ensure_ascii=False, default=str)
            self._digest.update(line.encode() + b"\n")

    def __str__(self) -> str:
        if callable(self._source):
            return self._digest.hexdigest()
        path = Path(str(self._source))
        return files.sha256_of(path) if path.is_file() else str(self._source)


def _from_hub(source: str) -> Iterator[Row]:
    import datasets

    name, _, split = source.removeprefix("hub:").partition(":")
    split = split or "train"
    try:
        dataset = datasets.load_dataset(name, split=split)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"can't read dataset {name!r}, split {split!r}, from the hub: {first} Without a hub, give a file, "
            "such as .jsonl, .csv or .xlsx"
        ) from error
    for number, values in enumerate(dataset, 1):
        yield Row(f"{name}[{split}]:{number}", dict(values))
