"""Apache Parquet."""

from collections.abc import Iterator
from pathlib import Path

from workbench.errors import UserError
from workbench.sources.readers.reader import DataFile, Opened, Reader, Row

# Rows that are read at once.
ROWS_TOGETHER = 1000


def read_parquet(file: DataFile) -> Opened:
    """Open a Parquet file."""
    return Opened("Parquet", _rows(Path(file.path)))


def _rows(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as opened:
            for batch in opened.iter_batches(ROWS_TOGETHER):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{path.name}:{number}", values)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: not a Parquet file: {error}") from error


READERS = (Reader(name="parquet", title="Parquet", suffixes=(".parquet",), read=read_parquet),)
