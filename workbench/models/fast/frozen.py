"""The frozen weights of several layers as one matrix: kept so, or made whenever a product needs it.

A weight held at 8 or 4 bits becomes bfloat16 for as long as a product takes, in a matrix that all weights of its
shape share. On a CPU bitsandbytes rounds activations to int8 as well and computes outliers apart, or fills a new tensor
at each pass; here a byte or half of one is read for each weight, and written where the product reads it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from workbench.models.fast.compiled import Loop, can_compile

# Of an int8 code and its row's largest weight, as bitsandbytes has it.
INT8_STEP = 1 / 127
Fill = Callable[[torch.Tensor], None]
# GPT-2 and its like keep the transposed weight.
Layer = nn.Linear | Conv1D

_widen_int8 = Loop("widen_int8")
_widen_nf4 = Loop("widen_nf4")


def inputs(layer: Layer) -> int:
    """Width of what a layer reads."""
    return layer.nx if isinstance(layer, Conv1D) else layer.in_features


def outputs(layer: Layer) -> int:
    """Width of what a layer gives."""
    return layer.nf if isinstance(layer, Conv1D) else layer.out_features


class DenseWeights:
    """Floating-point weights, moved into one matrix, of which each layer keeps its part.

    Args:
        layers: that read the same input.
        room: columns to the right of the weights, zero.
    """

    stays = True  # what is written into the room is there until it is overwritten

    def __init__(self, layers: Sequence[Layer], room: int) -> None:
        self.layers, first = layers, layers[0]
        sizes, width = [outputs(layer) for layer in layers], inputs(first)
        self.dtype = first.weight.dtype
        self.whole = first.weight.data.new_zeros(sum(sizes), width + room)
        for layer, rows in zip(layers, self.whole.split(sizes), strict=True):
            turned = isinstance(layer, Conv1D)
            rows[:, :width] = layer.weight.data.t() if turned else layer.weight.data
            layer.weight.data = rows[:, :width].t() if turned else rows[:, :width]

    def matrix(self) -> torch.Tensor:
        """(sum of out, in + room)."""
        return self.whole

    def release(self) -> None:
        """Give each layer a matrix of its own again."""
        for layer in self.layers:
            layer.weight.data = layer.weight.data.clone(memory_format=torch.contiguous_format)


class PackedWeights:
    """Weights at 8 or 4 bits.

    Args:
        layers: that read the same input, of which `is_packed` is true.
        room: columns to the right of the weights, zero as long as nobody writes there.
        shared: matrices by what they are for; groups that have the same key write into the same one.
        key: what tells groups apart that use the room otherwise.
    """

    stays = False  # the next group of its kind writes over it
    dtype = torch.bfloat16

    def __init__(self, layers: Sequence[Layer], room: int, shared: dict[Any, torch.Tensor], key: Sequence[int]) -> None:
        self.sizes = [outputs(layer) for layer in layers]
        self.width, self.room, self.shared = inputs(layers[0]), room, shared
        self.key = (self.width, room, *self.sizes, *key)
        self.device = layers[0].weight.device
        self.fills = [_filler(layer) for layer in layers]

    def matrix(self) -> torch.Tensor:
        """(sum of out, in + room); it holds until another one of its kind is made."""
        if self.key not in self.shared:
            shape = (sum(self.sizes), self.width + self.room)
            self.shared[self.key] = torch.zeros(shape, dtype=self.dtype, device=self.device)
        whole = self.shared[self.key]
        for fill, rows in zip(self.fills, whole.split(self.sizes), strict=True):
            fill(rows)
        return whole

    def release(self) -> None:
        """Forget the matrix."""
        self.shared.pop(self.key, None)


def is_packed(layer: nn.Module) -> bool:
    """Whether a layer holds its weight at 8 or 4 bits, as `Made` reads it."""
    weight: Any = layer._parameters.get("weight")
    kind = type(weight).__name__
    if kind not in ("Int8Params", "Params4bit") or weight.device.type != "cpu" or not can_compile():
        return False
    if kind == "Int8Params":
        return weight.dtype == torch.int8 and _largest_weights(layer) is not None
    state = weight.quant_state
    return state is not None and state.quant_type == "nf4" and layer.in_features % state.blocksize == 0


def _filler(layer: Any) -> Fill:
    """What writes the weight of a layer into rows of bfloat16."""
    weight, (rows, width) = layer.weight, (layer.out_features, layer.in_features)
    codes = weight.data.view(-1)
    if type(weight).__name__ == "Int8Params":
        scales = int8_steps(layer)
        return lambda result: _widen_int8(rows, codes, scales, result, result.stride(0), width)
    from bitsandbytes.functional import dequantize_blockwise

    state = weight.quant_state
    scales = state.absmax
    if state.nested:
        scales = dequantize_blockwise(state.absmax, state.state2) + state.offset
    scales, table = scales.float().contiguous(), state.code.float().contiguous()
    return lambda result: _widen_nf4(rows, codes, scales, table, result, result.stride(0), width, int(state.blocksize))


def int8_steps(layer: Any) -> torch.Tensor:
    """What a code of each row of a weight at 8 bits stands for, (out,), in float32."""
    return (_largest_weights(layer).float() * INT8_STEP).contiguous()


def _largest_weights(layer: Any) -> Any:
    """The largest weight of each row; PEFT loses it from the weight, and the layer's state keeps it then."""
    return layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
