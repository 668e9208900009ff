"""What leaves the frozen lower layers for each row, kept on disk from the first time that it was computed."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn

from workbench.models import is_split
from workbench.models.lower import FrozenLayers
from workbench.training.inputs import TrainingRows
from workbench.training.rows import lengths

logger = logging.getLogger(__name__)

# In a batch, the place of each of its rows in the whole.
ROW = "row"
# Share of the free disk that may be taken.
OF_FREE_DISK = 0.25


class Activations:
    """The hidden states that leave the frozen layers of a model, of every row of a split.

    Rows are padded on the right, so that no token's states hang on what stands beside it in the batch but for rounding.

    Args:
        frozen: the layers of the model that is trained.
        rows: of the split.
        path: of the file that holds them, opened if it is there. Whatever they depend on (base, precision, number of
            layers, rows) is in its name.
    """

    def __init__(self, frozen: FrozenLayers, rows: Dataset, path: Path) -> None:
        self.frozen = frozen
        counts = lengths(rows).astype(np.int64)
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        size = int(self._starts[-1]) * frozen.width
        there = path.with_suffix(".there")
        if not path.is_file() or path.stat().st_size != size * frozen.dtype.itemsize:
            there.unlink(missing_ok=True)
            _allocate(path, size * frozen.dtype.itemsize)
        self._states = torch.from_file(str(path), shared=True, size=size, dtype=frozen.dtype).view(-1, frozen.width)
        whole = there.is_file() and there.stat().st_size == len(counts)
        self._there = np.memmap(there, dtype=np.uint8, mode="r+" if whole else "w+", shape=(len(counts),))

    @contextmanager
    def of(self, places: Sequence[int], length: int) -> Iterator[None]:
        """Let the layers give what is known of these rows, or remember what they compute.

        Args:
            places: of the rows in the split, in their order in the batch.
            length: of the batch, padding included.
        """
        if all(map(self._is_there, places)):
            with self.frozen.giving(self._read(places, length)):
                yield
            return
        with self.frozen.taking() as found:
            yield
        (states,) = found
        for place, row in zip(places, states.cpu(), strict=True):
            start, end = self._starts[place], self._starts[place + 1]
            self._states[start:end] = row[: end - start]
            self._there[place] = 1

    def _is_there(self, place: int) -> bool:
        """A row that was noted and whose states never came to the disk is zeros."""
        return bool(self._there[place] and self._states[self._starts[place]].any())

    def _read(self, places: Sequence[int], length: int) -> torch.Tensor:
        states = torch.zeros(len(places), length, self.frozen.width, dtype=self.frozen.dtype)
        for place, row in zip(places, states, strict=True):
            start, end = self._starts[place], self._starts[place + 1]
            row[: end - start] = self._states[start:end]
        return states


def _allocate(path: Path, size: int) -> None:
    """Make a file of zeros that has its room on the disk: a map of a file without ends a process where that is full.

    Raises:
        OSError: there is no room.
    """
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


@dataclass(frozen=True)
class Place:
    """Where activations are kept.

    Attributes:
        folder: for the files.
        key: what tells base, precision and rows from others there.
    """

    folder: Path
    key: str


class KeptActivations:
    """The activations of the rows that are trained on, and of those by which a training stops.

    Args:
        model: attached, on its device.
        autocast: whether it is trained with bfloat16 products.
        place: None keeps nothing.
        rows: of both splits.
    """

    def __init__(self, model: nn.Module, autocast: bool, place: Place | None, rows: TrainingRows) -> None:
        self.splits: dict[bool, Activations] = {}
        if place is None or not rows.objective.reads_once or is_split(model):  # split, all gather a layer together
            return
        if not (frozen := FrozenLayers(model, autocast)).count:
            return
        both = {True: rows.train, False: rows.validation}
        size = sum(int(lengths(some).sum()) for some in both.values()) * frozen.width * frozen.dtype.itemsize
        kind = f"{place.key}.below-{frozen.count}.{str(frozen.dtype).removeprefix('torch.')}"
        paths = {training: place.folder / f"{kind}.{'train' if training else 'validation'}.states" for training in both}
        place.folder.mkdir(parents=True, exist_ok=True)
        there = sum(path.stat().st_size for path in paths.values() if path.is_file())
        if size > OF_FREE_DISK * (shutil.disk_usage(place.folder).free + there):
            logger.info("what the frozen layers give is not kept: it would take %.1f GB of the disk", size / 1e9)
            return
        try:
            self.splits = {training: Activations(frozen, some, paths[training]) for training, some in both.items()}
        except OSError as error:
            logger.info("what the frozen layers give is not kept: %s", error)

    @contextmanager
    def of(self, batch: Mapping[str, torch.Tensor], training: bool) -> Iterator[None]:
        """Compute the loss of a batch in this context.

        Args:
            batch: of `with_places`.
            training: its rows are those that are trained on.
        """
        if not self.splits:
            yield
            return
        with self.splits[training].of(batch[ROW].tolist(), batch["input_ids"].shape[1]):
            yield


def numbered(rows: Dataset) -> Dataset:
    """The rows, each with its place, for `with_places`."""
    return rows.add_column(ROW, np.arange(len(rows)))


def with_places(
    collate: Callable[[Sequence[Mapping[str, Any]]], dict[str, torch.Tensor]],
) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, torch.Tensor]]:
    """A collator whose batches hold the places of their rows, too."""

    def collated(examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        return {**collate(examples), ROW: torch.tensor([example[ROW] for example in examples])}

    return collated
