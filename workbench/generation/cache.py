"""A cache of keys and values with room for the answer."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer


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
