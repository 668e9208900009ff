"""Lines of a stream, from a file or from standard input, in batches, each with the place where it stands.

A line that came through a pipe is gone when the process is killed. So standard input is first written to a spool, and
the spool is read like any other file: what has arrived there is worked off after a restart.
"""

import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

POLL_SECONDS = 0.2
# A longer line is no text that someone wrote; more is not kept in memory.
MOST_BYTES = 2**20


@dataclass(frozen=True)
class Line:
    """A whole line without its end.

    Attributes:
        start, end: offsets in bytes at which it begins, and behind its end.
    """

    content: bytes
    start: int
    end: int


def batches(path: Path, start: int, most: int, follow: threading.Event | None = None) -> Iterator[list[Line]]:
    """Yield whole lines of the file at `path` from the offset `start`, at most so many together.

    Args:
        follow: wait for more lines until it is set, and begin anew where the file is cut off or replaced, as logs
            are. None ends with the file; a last line without an end is then left for the next time, unless it is
            whole as it stands.
    """
    while True:
        yield from _lines(path, start, most, follow)
        if follow is None or follow.is_set():
            return
        start = 0


def _lines(path: Path, start: int, most: int, follow: threading.Event | None) -> Iterator[list[Line]]:
    """Lines of a file until its end, or until there is another one in its place."""
    with path.open("rb") as file:
        file.seek(start)
        end = start
        found: list[Line] = []
        while True:
            last = follow is None or follow.is_set()  # looked at before reading: what came before it is read
            content = file.readline(MOST_BYTES)
            whole = content.endswith(b"\n") or len(content) == MOST_BYTES
            if whole or (content and last and _is_json(content)):
                found.append(Line(content.rstrip(b"\r\n"), end, end + len(content)))
                end += len(content)
                if len(found) == most:
                    yield found
                    found = []
                continue
            file.seek(end)  # half a line: the rest is yet to be written
            if found:
                yield found
                found = []
            elif last or _replaced(file, path, end):
                return
            else:
                time.sleep(POLL_SECONDS)


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return True


def _replaced(file: BinaryIO, path: Path, end: int) -> bool:
    """Whether the file at `path` is another one than `file` now, or was cut off."""
    try:
        there, here = path.stat(), os.fstat(file.fileno())
    except FileNotFoundError:
        return False  # between two files
    return (there.st_ino, there.st_dev) != (here.st_ino, here.st_dev) or there.st_size < end


class Spool:
    """Standard input, copied to a file by a thread of its own.

    Args:
        source: what is copied.
        path: of the file; is added to.
        dealt_with: bytes of the file that were read before.

    Attributes:
        done: set at the end of `source`, or when it could not be copied.
        error: why not.
    """

    def __init__(self, source: BinaryIO, path: Path, dealt_with: int) -> None:
        self.done = threading.Event()
        self.error: OSError | None = None
        _cut_half_line(path, dealt_with)
        threading.Thread(target=self._copy, args=(source, path), daemon=True).start()

    def _copy(self, source: BinaryIO, path: Path) -> None:
        try:
            with path.open("ab") as file:
                while line := source.readline(MOST_BYTES - 1):
                    file.write(line if line.endswith(b"\n") else line + b"\n")
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            self.error = error
        finally:
            self.done.set()


def _cut_half_line(path: Path, dealt_with: int) -> None:
    """Cut off half a line that an interruption left in a spool."""
    path.touch()
    with path.open("rb+") as file:
        file.seek(dealt_with)
        rest = dealt_with
        while line := file.readline(MOST_BYTES):
            if line.endswith(b"\n"):
                rest += len(line)
        file.truncate(rest)
