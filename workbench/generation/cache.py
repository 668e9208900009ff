"""Caches of keys and values: with room for the answer, and of prompts behind which several things are read."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

# Columns by which the keys and values of prompts grow beyond what is needed.
ROOM = 16


class RoomyLayer(DynamicLayer):
    """Keys and values of a layer at the front of buffers that are longer than they are.

    `DynamicLayer` copies all of its keys and values for every new token; here a new one is written behind them.
    """

    def __init__(self, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor], room: int) -> None:
        """Take over keys and values, (batch, heads, length, width) each, of the parts of a batch.

        In front of shorter ones are zeros.
        """
        super().__init__()
        self.dtype, self.device, self.is_initialized = keys[0].dtype, keys[0].device, True
        self.length = max(part.shape[-2] for part in keys)
        self.buffers = [_with_room(parts, self.length, room) for parts in (keys, values)]
        self._show()

    def _show(self) -> None:
        self.keys, self.values = (buffer[..., : self.length, :] for buffer in self.buffers)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append; returns all keys and values.

        Raises:
            RuntimeError: there is no room left.
        """
        start, self.length = self.length, self.length + key_states.shape[-2]
        if self.length > self.buffers[0].shape[-2]:
            raise RuntimeError(f"a cache with room for {self.buffers[0].shape[-2]} tokens was given {self.length}")
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[..., start : self.length, :] = states
        self._show()
        assert self.keys is not None and self.values is not None
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows."""
        self.buffers = [buffer[indices] for buffer in self.buffers]
        self._show()


def _with_room(parts: Sequence[torch.Tensor], length: int, room: int) -> torch.Tensor:
    rows = sum(len(part) for part in parts)
    buffer = parts[0].new_empty(rows, parts[0].shape[1], length + room, parts[0].shape[3])
    for part, place in zip(parts, buffer.split([len(part) for part in parts]), strict=True):
        place[:, :, : length - part.shape[2]] = 0  # masked, but nothing times what is no number is no number
        place[:, :, length - part.shape[2] : length] = part
    return buffer


def concatenate_caches(caches: Sequence[Any], room: int) -> Cache:
    """One cache for the rows of all `caches`, which end together, with room for so many more tokens.

    They are emptied layer by layer: both at once would be half as much memory again.
    """
    layers: list[Any] = []
    for parts in zip(*(cache.layers for cache in caches), strict=True):
        layers.append(RoomyLayer([one.keys for one in parts], [one.values for one in parts], room))
        for one in parts:
            one.keys = one.values = None
    return Cache(layers=layers)


class PromptCache:
    """Keys and values of prompts, and of what is read behind them: some rows at a time, each time others.

    Args:
        layers: keys and values of each layer, (rows, heads, columns, width), of the prompts.
    """

    def __init__(self, layers: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self._layers = [_RowsOfLayer(*both) for both in layers]

    @classmethod
    def joined(cls, caches: Sequence[Any], front: int, columns: int) -> "PromptCache":
        """One for the rows of all `caches`, each of which is emptied on the way.

        Args:
            front: columns that stay in front; zeros come between them and the others of shorter ones.
            columns: of the longest.
        """
        layers = []
        for parts in zip(*(cache.layers for cache in caches), strict=True):
            both = [_joined([getattr(one, name) for one in parts], front, columns) for name in ("keys", "values")]
            layers.append((both[0], both[1]))
            for one in parts:
                one.keys = one.values = None
        return cls(layers)

    def of(self, rows: torch.Tensor, columns: int, keep: bool) -> Cache:
        """A cache of the first so many columns of `rows`, which may be repeated.

        Args:
            keep: put what is read on top of it behind these columns.
        """
        for layer in self._layers:
            layer.open(rows, columns, keep)
        return Cache(layers=list(self._layers))


def _joined(parts: Sequence[torch.Tensor], front: int, columns: int) -> torch.Tensor:
    if len(parts) == 1 and parts[0].shape[2] == columns:
        return parts[0]
    rows = sum(len(part) for part in parts)
    buffer = parts[0].new_zeros(rows, parts[0].shape[1], columns, parts[0].shape[3])
    for part, place in zip(parts, buffer.split([len(part) for part in parts]), strict=True):
        place[:, :, :front] = part[:, :, :front]
        place[:, :, columns - part.shape[2] + front :] = part[:, :, front:]
    return buffer


class _RowsOfLayer(DynamicLayer):
    """Some rows of a layer's keys and values; only what is attended to right now is copied."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._buffers = [keys, values]

    def open(self, rows: torch.Tensor, columns: int, keep: bool) -> None:
        """Be these rows, up to so many columns."""
        self._rows, self._columns, self._keep = rows, columns, keep

    def get_seq_length(self) -> int:
        """Columns in front of what is read."""
        return self._columns

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append; returns all keys and values of the rows."""
        keys, values = (self._appended(number, states) for number, states in enumerate((key_states, value_states)))
        return keys, values

    def _appended(self, number: int, states: torch.Tensor) -> torch.Tensor:
        buffer, start, end = self._buffers[number], self._columns, self._columns + states.shape[2]
        if self._keep:
            if end > buffer.shape[2]:
                more = buffer.new_zeros(*buffer.shape[:2], end - buffer.shape[2] + ROOM, buffer.shape[3])
                self._buffers[number] = buffer = torch.cat([buffer, more], dim=2)
            buffer[self._rows, :, start:end] = states
        whole = states.new_empty(len(states), states.shape[1], end, states.shape[3])
        whole[:, :, :start] = buffer[self._rows, :, :start]
        whole[:, :, start:] = states
        return whole
