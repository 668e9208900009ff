"""What a reader is: a name, the endings of its files, and a function that opens one."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from workbench.errors import Problem, UserError


@dataclass(frozen=True)
class DataFile:
    """A data file, with what can't be found by looking at it, or was found wrongly.

    Attributes:
        path: of the file.
        format: name of the reader, such as "csv"; None goes by the ending of the file's name.
        delimiter: what separates the fields of a CSV file; None finds out which of `, ; | tab` it is.
        encoding: of a text file, as Python calls it, such as "cp1252"; None finds out whether it is UTF-8, UTF-16,
            UTF-32 or cp1252.
        sheet: name of an Excel file's sheet; None takes the first one with rows.
    """

    path: str | Path
    format: str | None = None
    delimiter: str | None = None
    encoding: str | None = None
    sheet: str | None = None

    def __str__(self) -> str:
        return str(self.path)

    @property
    def options(self) -> dict[str, str]:
        """What is said beside the path, by name."""
        given = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "path"}
        return {name: value for name, value in given.items() if value is not None}

    def told(self, **options: str) -> str:
        """How a recipe says `options` of this file, for messages."""
        said = ", ".join(f"{name}={value!r}" for name, value in options.items())
        return f"DataFile({str(self.path)!r}, {said})"


@dataclass(frozen=True)
class Row:
    """One row and where it stands, for messages: `faq.jsonl:17`."""

    place: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Opened:
    """A file that was looked at.

    Attributes:
        format: what it is found to be, such as "CSV, semicolons, cp1252".
        rows: read once, one after another.
        is_usual: it is what the ending of its name promises, in UTF-8: nothing worth a line.
    """

    format: str
    rows: Iterable[Row]
    is_usual: bool = True


def anything(head: bytes) -> bool:
    """Of readers that go by the ending of the name alone."""
    return True


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One format of data files.

    Attributes:
        name: for `DataFile(format=...)`.
        title: as people call it.
        suffixes: endings of its files' names, such as ".csv".
        read: looks at a file and opens it; raises UserError for one that can't be read. Malformed rows are named when
            the last row has been read, all of them.
        recognises: of readers that share a suffix, the first one takes a file for whose first bytes this holds.
        options: fields of `DataFile` that it obeys.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    read: Callable[[DataFile], Opened]
    recognises: Callable[[bytes], bool] = anything
    options: tuple[str, ...] = ()


def checked_objects(values: Iterable[tuple[str, Any]], problems: list[Problem]) -> Iterator[Row]:
    """Rows of JSON values with their places; what is no object goes to `problems`."""
    for place, value in values:
        if isinstance(value, dict):
            yield Row(place, value)
        else:
            problems.append(Problem(place, f"a row must be a JSON object, not {type(value).__name__}"))


def require_distinct(header: Sequence[str], file: DataFile) -> None:
    """See that no two columns of a header have one name: one of them would be lost.

    Raises:
        UserError: they have.
    """
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise UserError(f"{file}: the header has several columns called {', '.join(map(repr, twice))}")


def require_options(reader: Reader, file: DataFile) -> None:
    """See that a reader obeys what is said of a file.

    Raises:
        UserError: it does not.
    """
    foreign = [name for name in file.options if name not in ("format", *reader.options)]
    if foreign:
        obeys = ", ".join(reader.options) or "none"
        raise UserError(
            f"{file}: {', '.join(foreign)} says nothing about a file of the kind {reader.title} (known for it: {obeys})"
        )
