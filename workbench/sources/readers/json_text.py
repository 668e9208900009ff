"""The encoding of JSON: UTF-8 by its standard, unless a mark or the recipe says something else."""

from pathlib import Path

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
