"""A JSON object in each line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench.errors import Problem, collected
from workbench.sources.readers.json_text import DECODER, NOT_JSON, json_encoding, what_is_wrong
from workbench.sources.readers.reader import DataFile, Opened, Reader, Row, checked_objects
from workbench.sources.readers.text import not_decoded, open_text


def read_json_lines(file: DataFile) -> Opened:
    """Open a file of JSON lines; a line that can't be read is named with all others when the last has been."""
    encoding, words = json_encoding(file)
    problems: list[Problem] = []

    def values() -> Iterator[tuple[str, Any]]:
        for number, line in enumerate(_lines(file, encoding), 1):
            if not line.strip():
                continue
            place = f"{Path(file.path).name}:{number}"
            try:
                value = DECODER.decode(line if isinstance(line, str) else line.decode("utf-8-sig"))
            except NOT_JSON as error:
                is_text = not isinstance(error, UnicodeDecodeError)
                hint = "" if is_text else f"; if that is another encoding, say {file.told(encoding='cp1252')}"
                problems.append(Problem(place, f"{what_is_wrong(error)}{hint}"))
            else:
                yield place, value

    def rows() -> Iterator[Row]:
        yield from checked_objects(values(), problems)
        if problems:
            raise collected(str(file), problems)

    return Opened(f"JSON lines, {words}", rows(), encoding == "utf-8")


def _lines(file: DataFile, encoding: str) -> Iterator[str | bytes]:
    """As bytes where that will do: a wrong one spoils its own line only."""
    if encoding == "utf-8":
        with Path(file.path).open("rb") as opened:
            yield from opened
    else:
        with open_text(file, encoding) as opened:
            try:
                yield from opened
            except UnicodeError as error:
                raise not_decoded(file, encoding, error) from error


READERS = (
    Reader(
        name="jsonl",
        title="JSON lines",
        suffixes=(".jsonl", ".ndjson", ".json"),
        read=read_json_lines,
        options=("encoding",),
    ),
)
