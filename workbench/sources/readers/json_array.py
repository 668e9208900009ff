"""JSON over many lines: an array of objects, objects one after another, or an object that holds the array."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from workbench.errors import Problem, UserError, collected
from workbench.sources.readers.json_text import DECODER, NOT_JSON, encoding_of, json_encoding, what_is_wrong
from workbench.sources.readers.reader import DataFile, Opened, Reader, Row, checked_objects
from workbench.sources.readers.text import not_decoded, open_text

# Characters that are read at once.
PIECE = 2**20
BETWEEN = re.compile(r"[\s,]*")
# The first line of an object that goes on in the next one.
GOES_ON = re.compile(r"\s*\{(?:|.*[\[{,])\s*")
# The beginning of an object that may hold the array, all in one line.
HOLDS = re.compile(r"\{\s*\"[^\"]+\"\s*:\s*\[\s*\{")
# Lists that are a row's own.
CONVERSATIONS = ("messages", "conversations", "conversation")


def is_over_many_lines(head: bytes) -> bool:
    """Whether a JSON file is an array, or begins with an object that is no row of JSON lines."""
    text = head.decode(encoding_of(head)[0], errors="replace").strip()
    first, line_end, _ = text.partition("\n")
    return text.startswith("[") or bool(GOES_ON.fullmatch(first) if line_end else HOLDS.match(first))


def read_json_array(file: DataFile) -> Opened:
    """Open such a file; its rows are counted from 1. In memory is one object at a time, unless one holds the array."""
    encoding, words = json_encoding(file)
    problems: list[Problem] = []

    def rows() -> Iterator[Row]:
        with open_text(file, encoding) as opened:
            numbered = enumerate(_rows_of(opened, Path(file.path)), 1)
            places = ((f"{Path(file.path).name}:{number}", value) for number, value in numbered)
            try:
                yield from checked_objects(places, problems)
            except UnicodeError as error:
                raise not_decoded(file, words, error) from error
        if problems:
            raise collected(str(file), problems)

    return Opened(f"JSON array, {words}", rows(), Path(file.path).suffix == ".json" and encoding == "utf-8")


def _rows_of(opened: TextIO, path: Path) -> Iterator[Any]:
    """The values; of a single object that only holds a list of objects, those."""
    is_array = opened.read(PIECE).lstrip().startswith("[")
    opened.seek(0)
    values = _values(opened, path)
    first = next(values, None)
    if first is None:
        return
    if not is_array and isinstance(first, dict) and len(first) == 1:
        ((name, held),) = first.items()
        second = next(values, None)
        if second is None and name not in CONVERSATIONS and isinstance(held, list):
            yield from held
            return
        yield first
        if second is not None:
            yield second
    else:
        yield first
    yield from values


def _values(opened: TextIO, path: Path) -> Iterator[Any]:
    """The elements of an array, or the values that stand one after another."""
    text, at, lines, count = opened.read(PIECE).lstrip(), 0, 1, 0
    is_array = text.startswith("[")
    at = int(is_array)
    while True:
        between = BETWEEN.match(text, at)
        at = between.end() if between else at
        if at < len(text):
            if is_array and text[at] == "]":
                return
            try:
                value, at = DECODER.raw_decode(text, at)
                count += 1
                yield value
                continue
            except json.JSONDecodeError as error:
                wrong = f"row {count + 1} is not JSON: {error.msg} in line {lines + text.count(chr(10), 0, error.pos)}"
            except NOT_JSON as error:
                raise UserError(f"{path}: row {count + 1}: {what_is_wrong(error)}") from error
        elif not is_array:
            wrong = ""
        else:
            wrong = f"the array has no end behind row {count}: was the file cut?"
        lines += text.count("\n", 0, at)
        # Twice as much as is left, so that a long value is not begun again at every piece.
        more = opened.read(max(PIECE, len(text) - at))
        if not more:
            if wrong:
                raise UserError(f"{path}: {wrong}")
            return
        text, at = text[at:] + more, 0


READERS = (
    Reader(
        name="json",
        title="JSON array",
        suffixes=(".json", ".jsonl", ".ndjson"),
        read=read_json_array,
        recognises=is_over_many_lines,
        options=("encoding",),
    ),
)
