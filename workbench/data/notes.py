"""What is found while rows are read, for whoever looks at the data: which shape they have, what of them is not used."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Notes:
    """What was noted.

    Attributes:
        shapes: a shape in words -> rows that have it.
        remarks: what is worth a line -> how often.
        columns: that were read.
    """

    def __init__(self) -> None:
        self.shapes: Counter[str] = Counter()
        self.remarks: Counter[str] = Counter()
        self.columns: set[str] = set()


_current: ContextVar[Notes | None] = ContextVar("notes", default=None)


@contextmanager
def noting() -> Iterator[Notes]:
    """Collect what is noted inside."""
    notes = Notes()
    token = _current.set(notes)
    try:
        yield notes
    finally:
        _current.reset(token)


def note_shape(shape: str, columns: tuple[str, ...]) -> None:
    """A row has a shape, by these columns of it."""
    if (notes := _current.get()) is not None:
        notes.shapes[shape] += 1
        notes.columns.update(columns)


def note(remark: str, times: int = 1) -> None:
    """Something is worth a line."""
    if times and (notes := _current.get()) is not None:
        notes.remarks[remark] += times
