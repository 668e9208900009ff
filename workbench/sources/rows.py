"""Rows of data from JSON lines, CSV, Parquet or a dataset of the hub, each with the place it came from."""

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench import files
from workbench.errors import UserError, collected, unknown

# Rows of a Parquet file that are read at once.
ROWS_TOGETHER = 1000


@dataclass(frozen=True)
class Row:
    """One row and where it stands, for messages: `faq.jsonl:17`."""

    place: str
    values: Mapping[str, Any]


Source = str | Path | Callable[[], Iterable[Mapping[str, Any]]]


def read_rows(source: Source) -> Iterator[Row]:
    """Read the rows of `source` one after another.

    Args:
        source: path of a `.jsonl`, `.csv` or `.parquet` file; `hub:NAME[:SPLIT]` for `datasets`; or a function that
            returns rows, for data in any other form.

    Raises:
        UserError: it is not there, of another kind, empty, or has malformed rows: all of them are named, when the
            last row has been read.
    """
    if callable(source):
        rows: Iterable[Row] = (Row(f"{name_of(source)}:{number}", row) for number, row in enumerate(source(), 1))
    elif str(source).startswith("hub:"):
        rows = _from_hub(str(source))
    else:
        path = Path(source)
        if not path.is_file():
            raise UserError(f"no data file at {path}")
        readers = {".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet}
        if path.suffix not in readers:
            raise unknown("kind of data file", path.suffix or path.name, readers)
        rows = readers[path.suffix](path)
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise UserError(f"{name_of(source)} holds no rows")


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
        return files.sha256_of(Path(self._source)) if Path(self._source).is_file() else str(self._source)


def _json_lines(path: Path) -> Iterator[Row]:
    problems: list[str] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            place = f"{path.name}:{number}"
            try:
                values = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                problems.append(f"{place}: not JSON: {error}")
                continue
            if isinstance(values, dict):
                yield Row(place, values)
            else:
                problems.append(f"{place}: a row must be a JSON object, not {type(values).__name__}")
    if problems:
        raise collected(str(path), problems)


def _csv(path: Path) -> Iterator[Row]:
    problems: list[str] = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for values in reader:
                place = f"{path.name}:{reader.line_num}"
                if None in values or None in values.values():
                    problems.append(
                        f"{place}: another number of fields than the header's {len(reader.fieldnames or ())}"
                    )
                else:
                    yield Row(place, values)
        except (csv.Error, UnicodeDecodeError) as error:
            problems.append(f"{path.name}:{reader.line_num + 1}: {error}")
    if problems:
        raise collected(str(path), problems)


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_TOGETHER):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{path.name}:{number}", values)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a Parquet file: {error}") from error


def _from_hub(source: str) -> Iterator[Row]:
    import datasets

    name, _, split = source.removeprefix("hub:").partition(":")
    split = split or "train"
    try:
        dataset = datasets.load_dataset(name, split=split)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"can't read dataset {name!r}, split {split!r}, from the hub: {first} Without a hub, give a .jsonl, "
            ".csv or .parquet file"
        ) from error
    for number, values in enumerate(dataset, 1):
        yield Row(f"{name}[{split}]:{number}", dict(values))
