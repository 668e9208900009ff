"""JSON of others: its values, and its encoding, which is UTF-8 unless a mark or the recipe says something else."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.sources.readers.reader import DataFile
from workbench.sources.readers.text import MARKS, UTF8, find_encoding


def json_encoding(file: DataFile) -> tuple[str, str]:
    """As Python calls it and as people do.

    Raises:
        UserError: the file names one that Python doesn't know.
    """
    if file.encoding is not None:
        return find_encoding(file)
    with Path(file.path).open("rb") as opened:
        return encoding_of(opened.read(4))


def encoding_of(head: bytes) -> tuple[str, str]:
    """By the mark with which a file begins."""
    for mark, encoding, words in MARKS:
        if head.startswith(mark):
            return encoding, words
    return "utf-8", UTF8


# What `json` raises for a text that it can't make a value of: beside syntax, integers of thousands of digits, and
# brackets in brackets in brackets.
NOT_JSON = (ValueError, RecursionError)


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise TwiceError(f"{', '.join(map(repr, twice))} stands there twice: one of them would be lost")
    return found


class TwiceError(ValueError):
    """An object has a name twice, of which `json` would keep the last."""


# Reads JSON, and no object that has a name twice.
DECODER = json.JSONDecoder(object_pairs_hook=_distinct)


def what_is_wrong(error: Exception) -> str:
    """What is wrong with a text of which no value could be made, in half a sentence."""
    if isinstance(error, TwiceError):
        return str(error)
    return f"not JSON: {'too many brackets in brackets' if isinstance(error, RecursionError) else error}"
