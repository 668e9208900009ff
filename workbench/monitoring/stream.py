"""Lines of a stream, from a file or from standard input, in batches, each with the place where it ends.

A line that came through a pipe is gone when the process is killed. So standard input is first written to a spool, and
the spool is read like any other file: what has arrived there is worked off after a restart.
"""

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
        end: offset in bytes behind it.
    """

    content: bytes
    end: int


def batches(path: Path, start: int, most: int, follow: threading.Event | None = None) -> Iterator[list[Line]]:
    """Yield whole lines of the file at `path` from the offset `start`, at most so many together.

    Args:
        follow: wait for more lines until it is set; None ends with the file. A last line without an end is then
            taken for whole.
    """
    with path.open("rb") as file:
        file.seek(start)
        end = start
        found: list[Line] = []
        while True:
            last = follow is None or follow.is_set()  # looked at before reading: what came before it is read
            content = file.readline(MOST_BYTES)
            if content.endswith(b"\n") or (content and (last or len(content) == MOST_BYTES)):
                end += len(content)
                found.append(Line(content.rstrip(b"\r\n"), end))
                if len(found) == most:
                    yield found
                    found = []
                continue
            file.seek(end)  # half a line: the rest is yet to be written
            if found:
                yield found
                found = []
            elif last:
                return
            else:
                time.sleep(POLL_SECONDS)


def spool(source: BinaryIO, path: Path) -> threading.Event:
    """Append the lines of `source` to the file at `path` in a thread of its own.

    Returns:
        An event that is set at the end of `source`.
    """
    done = threading.Event()
    _mend(path)

    def copy() -> None:
        with path.open("ab") as file:
            for line in source:
                file.write(line if line.endswith(b"\n") else line + b"\n")
                file.flush()
                os.fsync(file.fileno())
        done.set()

    threading.Thread(target=copy, daemon=True).start()
    return done


def _mend(path: Path) -> None:
    """Cut off half a line that an interruption left: its producer still has it, or has sent it in vain."""
    if not path.exists():
        path.touch()
        return
    with path.open("rb+") as file:
        file.seek(0, os.SEEK_END)
        size = file.tell()
        while size:
            step = min(size, 2**16)
            file.seek(size - step)
            last = file.read(step).rfind(b"\n")
            if last >= 0:
                file.truncate(size - step + last + 1)
                return
            size -= step
        file.truncate(0)
