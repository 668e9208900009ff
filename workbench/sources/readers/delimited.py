"""Fields between commas, semicolons, tabs or bars, with the columns' names in the first row."""

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from workbench.errors import Problem, collected
from workbench.sources.readers.reader import DataFile, Opened, Reader, Row, require_distinct
from workbench.sources.readers.text import UTF8, find_encoding, not_decoded, open_text

# In the order in which one is taken where several would do.
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
# What is looked at to find the delimiter.
SAMPLE_CHARACTERS, SAMPLE_ROWS = 2**18, 100
# Excel's own way of saying it, as the first line.
SAID_BY_EXCEL = "sep="


@dataclass(frozen=True)
class Dialect:
    """How fields are written.

    Attributes:
        lines_before: the header.
        spaces: a space follows each delimiter, and belongs to no field.
        backslashes: stand before quotation marks within a field, which are usually doubled.
    """

    delimiter: str
    lines_before: int = 0
    spaces: bool = False
    backslashes: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """For `csv.reader`."""
        escape = {"escapechar": "\\", "doublequote": False} if self.backslashes else {}
        return {"delimiter": self.delimiter, "skipinitialspace": self.spaces, "strict": True, **escape}


def read_delimited(file: DataFile) -> Opened:
    """Look at a CSV file and open it.

    Raises:
        UserError: its encoding can't be told, or its header names a column twice.
    """
    encoding, words = find_encoding(file)
    try:
        with open_text(file, encoding) as opened:
            dialect = _dialect(opened.read(SAMPLE_CHARACTERS), file.delimiter)
    except UnicodeError as error:
        raise not_decoded(file, words, error) from error
    said = DELIMITERS.get(dialect.delimiter, f"{dialect.delimiter!r} between the fields")
    usual = "\t" if Path(file.path).suffix.lower() in (".tsv", ".tab") else ","
    quotes = ", backslashes before quotation marks" * dialect.backslashes
    is_usual = (dialect.delimiter, words, quotes) == (usual, UTF8, "")
    return Opened(f"CSV, {said}, {words}{quotes}", _rows(file, encoding, dialect), is_usual)


def _dialect(sample: str, given: str | None) -> Dialect:
    """What separates the fields: that by which most rows have as many fields as the header, and the header the most."""
    first, _, rest = sample.partition("\n")
    before = 0
    if first.lower().startswith(SAID_BY_EXCEL) and len(delimiter := first.strip("\r")[len(SAID_BY_EXCEL) :]) == 1:
        sample, before, given = rest, 1, given or delimiter
    whole = len(sample) < SAMPLE_CHARACTERS - len(first)
    tried = {delimiter: _parsed(sample, delimiter, whole) for delimiter in ([given] if given else DELIMITERS)}

    def fits(delimiter: str) -> tuple[float, int]:
        header, *rows = tried[delimiter] or [[]]
        if len(header) < 2:
            return 0.0, 0
        return sum(len(row) == len(header) for row in rows) / max(1, len(rows)), len(header)

    found = max(tried, key=fits)
    header = tried[found][0] if tried[found] else []
    spaces = len(header) > 1 and all(name.startswith(" ") for name in header[1:])
    dialect = Dialect(found, before, spaces)
    escaped = Dialect(found, before, spaces, backslashes=True)
    return escaped if '\\"' in sample and not _holds(sample, dialect) and _holds(sample, escaped) else dialect


def _holds(sample: str, dialect: Dialect) -> bool:
    """Whether the first rows can be read so; the last one may have been cut, and is not looked at."""
    lines = iter(sample.splitlines(keepends=True)[:SAMPLE_ROWS])
    try:
        for _ in csv.reader(lines, **dialect.options):
            pass
    except csv.Error as error:
        return "unexpected end" in str(error)
    return True


def _parsed(sample: str, delimiter: str, whole: bool) -> list[list[str]]:
    """The first rows; the last one of a sample may have been cut."""
    try:
        rows = list(islice(filter(None, csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter)), SAMPLE_ROWS))
    except csv.Error:
        return []
    return rows if whole or len(rows) < 2 or len(rows) == SAMPLE_ROWS else rows[:-1]


def _rows(file: DataFile, encoding: str, dialect: Dialect) -> Iterator[Row]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a long text is one field
    name, problems = Path(file.path).name, []
    line = 1
    with open_text(file, encoding) as opened:
        reader = _reader(opened, dialect)
        try:
            header = _header(next(filter(None, reader), []), file)
            line = reader.line_num + 1
            for fields in reader:
                place, line = f"{name}:{line + dialect.lines_before}", reader.line_num + 1
                while len(fields) > len(header) and not fields[-1]:  # of columns without a name
                    fields.pop()
                if len(fields) == len(header):
                    yield Row(place, dict(zip(header, fields, strict=True)))
                elif fields:
                    problems.append(Problem(place, f"{len(fields)} fields instead of the header's {len(header)}"))
        except (csv.Error, UnicodeError) as error:
            hint = f"; if that is another encoding, say {file.told(encoding='...')}" * isinstance(error, UnicodeError)
            problems.append(Problem(f"{name}:{line + dialect.lines_before}", f"{error}{hint}"))
    if problems:
        found = DELIMITERS.get(dialect.delimiter, repr(dialect.delimiter))
        raise collected(f"{file} (read with {found} between the fields)", problems)


def _reader(opened: TextIO, dialect: Dialect) -> Any:
    for _ in range(dialect.lines_before):
        opened.readline()
    return csv.reader(opened, **dialect.options)


def _header(names: Sequence[str], file: DataFile) -> list[str]:
    """The columns' names, without those at the end that have none."""
    header = [name.strip() for name in names]
    while header and not header[-1]:
        header.pop()
    require_distinct(header, file)
    return header


READERS = (
    Reader(
        name="csv",
        title="CSV",
        suffixes=(".csv", ".tsv", ".tab"),
        read=read_delimited,
        options=("delimiter", "encoding"),
    ),
)
