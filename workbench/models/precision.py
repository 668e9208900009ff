"""On which device and in what precision a model is trained, scored and shipped."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from workbench.device import device, on_cpu
from workbench.processes import from_first

if TYPE_CHECKING:
    import torch

    from workbench.methods import Method

# In what a run is scored, merged and proven, and the bits of a number in it.
SHIPPED = {"float32": 32, "bfloat16": 16}
# Weights that a merge may go into.
ORIGINAL, DEQUANTIZED = "original", "dequantized"
# Rows and columns of the matrices by which bfloat16 and integers are chosen or not, and how often they are multiplied.
# Where the processor has units for it, bfloat16 is two to eight times as fast as float32, elsewhere a tenth as fast.
PRODUCT, PRODUCTS_TIMED = 512, 4


@cache
def bfloat16_is_fast() -> bool:
    """Whether this device multiplies bfloat16 matrices faster than float32 ones.

    On a CPU products of both are timed: what the processor says of itself is not what the library makes of it. Several
    processes that train together have to ask this first at the same time: they all do what the first one finds.
    """
    found: bool = from_first(_bfloat16_is_fast_here())
    return found


def _bfloat16_is_fast_here() -> bool:
    import torch

    if device().type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not on_cpu():
        return False
    coarse, fine = (torch.ones(PRODUCT, PRODUCT, dtype=dtype) for dtype in (torch.bfloat16, torch.float32))
    linear = torch.nn.functional.linear  # as layers do: `@` is ten times as slow where bfloat16 is emulated
    return is_faster(lambda: linear(coarse, coarse), lambda: linear(fine, fine))


def is_faster(product: Callable[[], object], other: Callable[[], object]) -> bool:
    """Whether `product` takes less time than `other`, in turns, of each the shortest time."""
    taken: tuple[list[float], list[float]] = [], []
    for _ in range(PRODUCTS_TIMED):
        for call, seconds in zip((product, other), taken, strict=True):
            began = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - began)
    return min(taken[0]) < min(taken[1])


def default_bits() -> int:
    """16 where bfloat16 is computed in hardware, 32 elsewhere."""
    return 16 if bfloat16_is_fast() else 32


def computing_dtype(bits: int) -> "torch.dtype":
    """In what a base that is held at `bits` computes: bfloat16 or float32."""
    import torch

    return torch.bfloat16 if bits == 16 or (bits < 16 and bfloat16_is_fast()) else torch.float32


@dataclass(frozen=True, kw_only=True)
class Precision:
    """In what a method's model is trained, scored and shipped.

    Attributes:
        trained_bits: how the base is held while training. The optimizer needs float32 for weights that it changes: a
            frozen base can be coarser, a trained one not.
        autocast: compute in bfloat16 whatever is kept in float32 while training.
        scored_bits: how the base is held when the model is scored. What can be merged is scored as it ships: in
            float32, in which batches don't change answers, or in bfloat16, in half the memory. What stays an adapter on
            a quantized base is scored on that.
        bases: weights that a merge may go into, the better by validation loss: the original ones, and after a training
            at 8 or 4 bits those that training saw, dequantized. Empty where nothing is merged into a base.
    """

    trained_bits: int
    autocast: bool
    scored_bits: int
    bases: tuple[str, ...]

    @property
    def loading_dtype(self) -> "torch.dtype":
        """The dtype with which users load the base that the scores are of."""
        return computing_dtype(self.scored_bits)


def precision_of(method: "Method", bits: int, mergeable: bool, shipped_bits: int = 32) -> Precision:
    """The one place that says in what a method's model is trained, scored and shipped.

    Args:
        bits: what was asked for: 32, 16, 8 or 4.
        mergeable: a merged checkpoint can be made.
        shipped_bits: of a number of what is scored, merged and proven, 32 or 16; see `SHIPPED`.
    """
    quantized = bits < 16
    merges = mergeable and method.trains and not method.trains_base
    return Precision(
        trained_bits=32 if method.trains_base else bits,
        autocast=bits < 32 and bfloat16_is_fast(),
        scored_bits=bits if quantized and not mergeable and not method.trains_base else shipped_bits,
        bases=(() if not merges else (ORIGINAL, DEQUANTIZED) if quantized else (ORIGINAL,)),
    )
