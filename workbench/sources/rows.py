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


@dataclass(frozen=True)
class Row:
    """One row and where it stands, for messages: `faq.jsonl:17`."""

    place: str
    values: Mapping[str, Any]


Source = str | Path | Callable[[], Iterable[Mapping[str, Any]]]


def read_rows(source: Source) -> list[Row]:
    """Read all rows of `source`.

    Args:
        source: path of a `.jsonl`, `.csv` or `.parquet` file; `hub:NAME[:SPLIT]` for `datasets`; or a function that
            returns rows, for data in any other form.

    Raises:
        UserError: it is not there, of another kind, empty, or has malformed rows (all of them are named).
    """
    if callable(source):
        rows = [Row(f"{name_of(source)}:{number}", row) for number, row in enumerate(source(), 1)]
    elif str(source).startswith("hub:"):
        rows = _from_hub(str(source))
    else:
        path = Path(source)
        if not path.is_file():
            raise UserError(f"no data file at {path}")
        readers = {".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet}
        if path.suffix not in readers:
            raise unknown("kind of data file", path.suffix or path.name, readers)
        rows = list(readers[path.suffix](path))
    if not rows:
        raise UserError(f"{name_of(source)} holds no rows")
    return rows


def name_of(source: Source) -> str:
    """A source as messages name it."""
    return getattr(source, "__name__", type(source).__name__) if callable(source) else str(source)


def fingerprint(source: Source, rows: Iterable[Row]) -> str:
    """What tells whether rows have changed: the sha256 of a file, or of what a function gave; a hub's name.

    Args:
        rows: what `read_rows(source)` gave.
    """
    if callable(source):
        digest = hashlib.sha256()
        for row in rows:
            digest.update(json.dumps(row.values, sort_keys=True, ensure_ascii=False, default=str).encode() + b"\n")
        return digest.hexdigest()
    return files.sha256_of(Path(source)) if Path(source).is_file() else str(source)


def _json_lines(path: Path) -> Iterator[Row]:
    problems: list[str] = []
    rows: list[Row] = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        place = f"{path.name}:{number}"
        try:
            values = json.loads(line)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            problems.append(f"{place}: not JSON: {error}")
            continue
        if isinstance(values, dict):
            rows.append(Row(place, values))
        else:
            problems.append(f"{place}: a row must be a JSON object, not {type(values).__name__}")
    if problems:
        raise collected(str(path), problems)
    yield from rows


def _csv(path: Path) -> Iterator[Row]:
    problems: list[str] = []
    rows: list[Row] = []
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
                    rows.append(Row(place, values))
        except (csv.Error, UnicodeDecodeError) as error:
            problems.append(f"{path.name}:{reader.line_num + 1}: {error}")
    if problems:
        raise collected(str(path), problems)
    yield from rows


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a Parquet file: {error}") from error
    for number, values in enumerate(table.to_pylist(), 1):
        yield Row(f"{path.name}:{number}", values)


def _from_hub(source: str) -> list[Row]:
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
    return [Row(f"{name}[{split}]:{number}", dict(values)) for number, values in enumerate(dataset, 1)]
