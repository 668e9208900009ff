"""Sequences that lie on disk: as long as it holds, and in memory only what is looked at."""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import pyarrow

# Records that are written and read together.
TOGETHER = 1000

if TYPE_CHECKING:
    from datasets import Dataset

T = TypeVar("T")
Schema = Mapping[str, pyarrow.DataType]


def write_dataset(records: Iterable[Mapping[str, Any]], schema: Schema) -> "Dataset":
    """Write `records` to a file that has no name, so that it goes with the process, and map it into memory.

    It lies where Python puts temporary files; the environment variable TMPDIR says where that is. Where that is a
    file system in memory, so are the data. Forked processes can read it, others can't.

    Args:
        records: read once.
        schema: name and type of each column.
    """
    from datasets import Dataset

    wanted = pyarrow.schema(list(schema.items()))
    descriptor, path = tempfile.mkstemp(prefix="workbench-", suffix=".arrow")
    try:
        with os.fdopen(descriptor, "wb") as file, pyarrow.ipc.new_stream(file, wanted) as writer:
            for some in in_parts(records, TOGETHER):
                writer.write_batch(pyarrow.RecordBatch.from_pylist(some, schema=wanted))
        return Dataset.from_file(path)
    finally:
        Path(path).unlink()


def in_parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """`items` in lists of `size`, the last one shorter."""
    part: list[T] = []
    for item in items:
        part.append(item)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


class OnDisk(Sequence[T], Generic[T]):
    """What `make` makes of each record of a dataset, made when it is looked at.

    Slices are lists.
    """

    def __init__(self, dataset: "Dataset", make: Callable[[Mapping[str, Any]], T]) -> None:
        self.dataset, self._make = dataset, make

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[T]:
        for start in range(0, len(self), TOGETHER):
            yield from self[start : start + TOGETHER]

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            columns = self.dataset[index]
            names = list(columns)
            return [
                self._make(dict(zip(names, values, strict=True)))
                for values in zip(*(columns[name] for name in names), strict=True)
            ]
        return self._make(self.dataset[index])
