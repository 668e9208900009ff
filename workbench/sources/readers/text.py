"""In what encoding a text file is: byte order marks first, then UTF-8 to the last byte, then cp1252 if it looks so."""

import codecs
import re
from pathlib import Path
from typing import TextIO

from workbench.errors import UserError
from workbench.sources.readers.reader import DataFile

UTF8 = "UTF-8"
# Of UTF-32 first: the mark of UTF-16 is the beginning of its own.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8 with a byte order mark"),
)
PIECE_BYTES = 2**20
# Bytes that mean nothing in cp1252.
UNDEFINED = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")
HIGH = re.compile(rb"[\x80-\xff]+")
# What other files in one or two bytes a letter may be; said, never taken.
OTHERS = ("gb18030", "shift_jis", "big5", "euc_kr", "cp1251")
# Share of bytes above 127 beside another such byte from which a text is not of a language that cp1252 was made for:
# there letters with accents stand among plain ones.
TOGETHER = 0.4
# Share of NULs in every second byte from which text without a mark is UTF-16.
NULS = 0.3


def find_encoding(file: DataFile) -> tuple[str, str]:
    """The encoding of a text file, as Python calls it and as people do.

    Raises:
        UserError: it can't be told; the message says what to set. Or the file names one that Python doesn't know.
    """
    path = Path(file.path)
    if file.encoding is not None:
        try:
            return file.encoding, codecs.lookup(file.encoding).name
        except LookupError:
            raise UserError(f"{file}: unknown encoding {file.encoding!r}; such as utf-8, cp1252, gb18030") from None
    with path.open("rb") as opened:
        head = opened.read(4096)
    for mark, encoding, words in MARKS:
        if head.startswith(mark):
            return encoding, words
    if head and (half := len(head) // 2):
        for first, encoding, words in ((1, "utf-16-le", "UTF-16 LE"), (0, "utf-16-be", "UTF-16 BE")):
            if head[first::2].count(0) > NULS * half:
                return encoding, words
    wrong = _not_utf8(path)
    if wrong is None:
        return "utf-8", UTF8
    line, piece = wrong
    if _looks_western(piece):
        return "cp1252", "cp1252"
    near = [encoding for encoding in OTHERS if _decodes(piece, encoding)]
    may = f" (it may be {' or '.join(near)})" if near else ""
    raise UserError(
        f"{path.name}:{line}: neither UTF-8 nor cp1252 by its looks{may}: say its encoding in the recipe, such as "
        f"{file.told(encoding=near[0] if near else 'cp1252')}"
    )


def open_text(file: DataFile, encoding: str) -> TextIO:
    """A text file, its line ends as they are."""
    return Path(file.path).open(encoding=encoding, newline="")


def not_decoded(file: DataFile, words: str, error: UnicodeError) -> UserError:
    """The error for a file that is in another encoding than was found or said."""
    other = "utf-8" if file.encoding is not None else "cp1252"
    return UserError(f"{file}: not {words}: {error}; if it is another encoding, say {file.told(encoding=other)}")


def _not_utf8(path: Path) -> tuple[int, bytes] | None:
    """The number of the first line that is not UTF-8, and the bytes around; None if all are."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    lines, left = 1, b""
    with path.open("rb") as opened:
        while True:
            piece = opened.read(PIECE_BYTES)
            try:
                decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                return lines + error.object[: error.start].count(b"\n"), left + piece
            if not piece:
                return None
            lines, left = lines + piece.count(b"\n"), piece[-4:]


def _looks_western(piece: bytes) -> bool:
    runs = [len(run) for run in HIGH.findall(piece)]
    return not UNDEFINED.search(piece) and sum(run for run in runs if run > 1) < TOGETHER * sum(runs)


def _decodes(piece: bytes, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        decoder.decode(piece)
    except UnicodeDecodeError:
        return False
    return True
