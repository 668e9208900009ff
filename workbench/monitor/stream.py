"""Lines of a stream, from a file or from standard input, in batches, each with the place where it stands.

A file that grows may be rotated: renamed, with a new one in its place, or copied and cut off. What was read is known by
its last line, so that the rest of it is found wherever it lies now, and the files that came after it.

A line that came through a pipe is gone when the process is killed. So standard input is first written to a spool, and
the spool is read like any other file: what has arrived there is worked off after a restart.
"""

import glob
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

POLL_SECONDS = 0.2
# A longer line is no text that someone wrote; more of it is not kept in memory.
MOST_BYTES = 2**20
# What rotation puts behind the name of a file: `.1`, `-20260131`, `.2026-01-31_09`.
ROTATED = re.compile(r"[.-](?P<number>\d[\d._:T-]*)")
# A numbered file is the older the higher its number; longer ones are dates.
LONGEST_NUMBER = 4
# After a rotation the writer may go on in the renamed file for a while: until that was quiet for so long.
QUIET_SECONDS = 2.0


@dataclass(frozen=True)
class Line:
    """A whole line without its end; of one longer than `MOST_BYTES` the beginning.

    Attributes:
        start, end: offsets in bytes at which it begins, and behind its end.
    """

    content: bytes
    start: int
    end: int

    @property
    def place(self) -> "Place":
        """By which it is found again."""
        return Place(start=self.start, end=self.end, digest=_digest(self.content))


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a line stands, and what it says.

    Attributes:
        start, end: offsets in bytes at which it begins, and behind its end.
        digest: of its content, sha256 in hexadecimal.
    """

    start: int
    end: int
    digest: str

    def is_read_from(self, file: BinaryIO) -> bool:
        """Whether an open file has the line in its place."""
        file.seek(self.start)
        content = file.read(min(self.end - self.start, MOST_BYTES))
        return len(content) >= min(self.end - self.start, MOST_BYTES) and _digest(_stripped(content)) == self.digest


def batches(
    path: Path,
    last: Place | None,
    most: int,
    follow: threading.Event | None = None,
    say: Callable[[str], None] = lambda remark: None,
) -> Iterator[list[Line]]:
    """Yield whole lines of the file at `path` behind a line that was read before, at most so many together.

    The rest of a file that was rotated since is read first, then the files that were rotated after it. A last line
    without an end is left for the next time, unless it is JSON as it stands; in a rotated file nobody will end it.

    Args:
        last: the line behind which to begin; None begins with the file.
        follow: wait for more lines until it is set. None ends with the file.
        say: is told what may have been missed.
    """
    while True:
        with ExitStack() as opened:
            current = opened.enter_context(_opened(path, follow))
            files, offset = _files(path, current, last, opened, say)
            for number, file in enumerate(files, 1):
                reader = _Reader(file, path if number == len(files) else None, follow)
                for lines in reader.batches(offset, most):
                    last = lines[-1].place
                    yield lines
                offset = 0
        if follow is None or follow.is_set():
            return


def _opened(path: Path, follow: threading.Event | None) -> BinaryIO:
    """The file at `path`; between two files of a rotation it is waited for."""
    while True:
        try:
            return path.open("rb")
        except FileNotFoundError:
            if follow is None or follow.is_set():
                raise
            time.sleep(POLL_SECONDS)


def _files(
    path: Path, current: BinaryIO, last: Place | None, opened: ExitStack, say: Callable[[str], None]
) -> tuple[list[BinaryIO], int]:
    """The files to read, `current` at `path` last, and the offset at which to begin with the first of them.

    All are opened before any is read: a rotation meanwhile changes names only.
    """
    if last is None:
        return [current], 0
    if last.is_read_from(current):
        return [current], last.end
    newer = [current]
    for file in reversed(_rotated(path, opened)):
        if os.path.sameopenfile(file.fileno(), current.fileno()):
            continue
        newer.insert(0, file)
        if last.is_read_from(file):
            return newer, last.end
    say(
        f"{path} was cut off or replaced, and no file beside it, such as {path.name}.1, has the last line that was "
        "read: it is read from its beginning, and whether lines were lost before can't be known"
    )
    return [current], 0


def _rotated(path: Path, opened: ExitStack) -> list[BinaryIO]:
    """The files that `path` was before it was rotated, the oldest first; compressed ones are left out."""
    found: list[tuple[int, str, BinaryIO]] = []
    for other in path.parent.glob(f"{glob.escape(path.name)}*"):
        number = ROTATED.fullmatch(other.name.removeprefix(path.name))
        if number is not None:
            count = number["number"]
            is_count = count.isdecimal() and len(count) <= LONGEST_NUMBER
            with suppress(FileNotFoundError, IsADirectoryError):
                found.append((-int(count) if is_count else 0, count, opened.enter_context(other.open("rb"))))
    return [file for _, _, file in sorted(found, key=lambda one: one[:2])]


class _Reader:
    """Reads a file to its end.

    Args:
        path: where it lies while it grows; None of one that was rotated, whose last line nobody will end.
        follow: see `batches`.
    """

    def __init__(self, file: BinaryIO, path: Path | None, follow: threading.Event | None) -> None:
        self.file, self.path, self.follow = file, path, follow
        self.end = 0  # of the last whole line
        self.last: Place | None = None
        self.quiet_since: float | None = None  # after it was replaced

    def batches(self, offset: int, most: int) -> Iterator[list[Line]]:
        """Lines from `offset` on, until its end or, if it grows, until there is another one in its place."""
        self.end = offset
        found: list[Line] = []
        looked_away = False
        while not (looked_away and self._was_cut()):
            waits = self.path is not None and self.follow is not None and not self.follow.is_set()
            line = self._next(is_last=not waits)
            looked_away = line is None or len(found) + 1 == most
            if line is not None:
                found.append(line)
                self.end, self.last, self.quiet_since = line.end, line.place, None
            if found and looked_away:
                yield found
                found = []
            elif line is None and not waits:
                return
            elif line is None and self._is_left():
                if rest := self._next(is_last=True, is_over=True):
                    yield [rest]
                return
            elif line is None:
                time.sleep(POLL_SECONDS)

    def _next(self, is_last: bool, is_over: bool = False) -> Line | None:
        """The next line, if it is whole.

        Args:
            is_last: nothing is waited for.
            is_over: nobody will end a line that has no end.
        """
        self.file.seek(self.end)
        content = piece = self.file.readline(MOST_BYTES)
        length = len(content)
        while len(piece) == MOST_BYTES and not piece.endswith(b"\n"):  # the rest is not kept
            piece = self.file.readline(MOST_BYTES)
            length += len(piece)
        is_whole = piece.endswith(b"\n") or (is_last and (is_over or self.path is None or _is_json(content)))
        return Line(_stripped(content), self.end, self.end + length) if content and is_whole else None

    def _was_cut(self) -> bool:
        """Whether what was read is no longer there: cut off, and perhaps grown again."""
        if os.fstat(self.file.fileno()).st_size < self.end:
            return True
        return self.last is not None and not self.last.is_read_from(self.file)

    def _is_left(self) -> bool:
        """Whether another file is in its place, and its writer has gone on to that."""
        assert self.path is not None
        try:
            there, here = self.path.stat(), os.fstat(self.file.fileno())
        except FileNotFoundError:
            return False  # between two files
        if os.path.samestat(there, here) or not there.st_size:
            return False
        self.quiet_since = self.quiet_since or time.monotonic()
        return time.monotonic() - self.quiet_since > QUIET_SECONDS


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _stripped(content: bytes) -> bytes:
    return content.rstrip(b"\r\n")


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return True


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
                piece = b"\n"
                while more := source.readline(MOST_BYTES):
                    piece = more
                    file.write(piece)
                    file.flush()
                    os.fsync(file.fileno())
                if not piece.endswith(b"\n"):
                    file.write(b"\n")
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
        while piece := file.readline(MOST_BYTES):
            if piece.endswith(b"\n"):
                rest = file.tell()
        file.truncate(rest)
