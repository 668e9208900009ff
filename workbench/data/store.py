"""Records on disk: mapped into memory, so that they may be more than it holds, by any process that knows where.

A store is a folder. Of each name it holds an Arrow file and a manifest, a JSON object with the `file`'s name, its
`bytes` and `sha256`, and the `schema`. Both appear whole or not at all, and the manifest last: what is written anew
replaces what was there in one step, and who has the older file mapped goes on reading it.
"""

import atexit
import glob
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload
from urllib.parse import quote

import pyarrow
from filelock import FileLock

from workbench import files
from workbench.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

# Records that are written and read together.
TOGETHER = 1000
TEMPORARY = "workbench-data-"
# Digits of a checksum that stand in a file's name.
SHOWN = 16

T = TypeVar("T")
Schema = Mapping[str, pyarrow.DataType]


class Store:
    """A folder of Arrow files, each under a name.

    Attributes:
        folder: made when something is written; any process opens what is there with `Store(folder)`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    @classmethod
    def temporary(cls) -> "Store":
        """A store that goes with this process, where Python puts temporary files: TMPDIR says where that is.

        Where that is a file system in memory, so are the data. What processes that were killed have left there is
        removed first.
        """
        for left in Path(tempfile.gettempdir()).glob(f"{TEMPORARY}*.lock"):
            _remove_if_left(left)
        descriptor, name = tempfile.mkstemp(prefix=TEMPORARY, suffix=".lock")
        os.close(descriptor)
        lock = FileLock(name)  # held while the process lives; one that was killed holds none
        lock.acquire()
        folder = Path(name).with_suffix("")
        folder.mkdir(mode=0o700)  # no other user reads the data
        atexit.register(_remove, folder, lock, os.getpid())
        return cls(folder)

    def __contains__(self, name: str) -> bool:
        return self._manifest(name).is_file()

    def sha256(self, name: str) -> str:
        """Checksum of the data called `name`, as they were written.

        Raises:
            UserError: there are none.
        """
        return str(self._entry(name)["sha256"])

    def write(self, name: str, records: Iterable[Mapping[str, Any]], schema: Schema) -> "Dataset":
        """Write `records` in the place of what was called `name` before, and map them.

        Args:
            records: read once; if they raise, nothing is written.
            schema: name and type of each column.
        """
        from datasets import Dataset

        self.folder.mkdir(parents=True, exist_ok=True)
        wanted = pyarrow.schema(list(schema.items()))
        descriptor, aside = tempfile.mkstemp(dir=self.folder, prefix=".", suffix=files.ASIDE)
        try:
            with _HashingFile(io.FileIO(descriptor, "wb")) as file:
                with pyarrow.ipc.new_stream(file, wanted) as writer:
                    for some in in_parts(records, TOGETHER):
                        writer.write_batch(pyarrow.RecordBatch.from_pylist(some, schema=wanted))
                sha256, size = file.digest.hexdigest(), file.tell()
            path = self.folder / f"{quote(name, safe='')}-{sha256[:SHOWN]}.arrow"
            Path(aside).chmod(files.FILE_MODE)
            Path(aside).replace(path)
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise
        older = set(self.folder.glob(f"{glob.escape(quote(name, safe=''))}-{'?' * SHOWN}.arrow")) - {path}
        columns = {column: str(kind) for column, kind in schema.items()}
        entry = {"file": path.name, "bytes": size, "sha256": sha256, "schema": columns}
        files.write_json(self._manifest(name), entry)
        for file_before in older:
            file_before.unlink(missing_ok=True)
        return Dataset.from_file(str(path))

    def open(self, name: str) -> "Dataset":
        """Map what was written as `name`, by this process or another one.

        Raises:
            UserError: it is not there, or is not what was written.
        """
        from datasets import Dataset

        entry = self._entry(name)
        path = self.folder / entry["file"]
        if not path.is_file():
            raise self.damaged(f"{path.name} is missing")
        if (size := path.stat().st_size) != entry["bytes"]:
            raise self.damaged(f"{path.name} has {size} bytes, and was written with {entry['bytes']}")
        if files.sha256_of(path) != entry["sha256"]:
            raise self.damaged(f"{path.name} has another sha256 than it was written with")
        return Dataset.from_file(str(path))

    def damaged(self, what: str) -> UserError:
        """The error for a store that does not hold what was written to it."""
        return UserError(
            f"the prepared data in {self.folder} are damaged: {what}. Remove that folder: its data are made anew by "
            "the run that they belong to"
        )

    def _manifest(self, name: str) -> Path:
        return self.folder / f"{quote(name, safe='')}.json"

    def _entry(self, name: str) -> dict[str, Any]:
        """What the manifest says."""
        if name not in self:
            raise self.damaged(f"there is nothing called {name!r}")
        try:
            entry = json.loads(self._manifest(name).read_text(encoding="utf-8"))
            return {key: entry[key] for key in ("file", "bytes", "sha256", "schema")}
        except (ValueError, KeyError, TypeError) as error:
            raise self.damaged(f"{self._manifest(name).name} can't be read") from error


def column(records: "Dataset", name: str) -> "pyarrow.ChunkedArray":
    """A column of records, of those that were selected only: `records.data` holds the others, too."""
    table: pyarrow.Table = records.select_columns([name]).with_format("arrow")[:]
    return table.column(name)


class _HashingFile(io.BufferedWriter):
    """A file that takes the sha256 of what is written to it."""

    def __init__(self, raw: io.FileIO) -> None:
        super().__init__(raw)
        self.digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return super().write(data)


def _remove(folder: Path, lock: Any, owner: int) -> None:
    """Remove a temporary store; a forked child leaves it to its parent."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def _remove_if_left(lock_file: Path) -> None:
    """Remove a temporary store whose process is gone."""
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except OSError:  # its process lives, or it is another user's
        return
    _remove(lock_file.with_suffix(""), lock, os.getpid())


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
    """What `make` makes of the records of a dataset, made when it is looked at.

    Slices are lists.

    Args:
        make: some records -> one thing for each.
    """

    def __init__(self, dataset: "Dataset", make: Callable[[Sequence[Mapping[str, Any]]], list[T]]) -> None:
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
            values = zip(*(columns[name] for name in names), strict=True)
            return self._make([dict(zip(names, some, strict=True)) for some in values])
        return self._make([self.dataset[index]])[0]
