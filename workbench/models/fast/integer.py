"""Products of activations with weights held at 8 bits, in integers, forwards and backwards.

Of LLM.int8 (Dettmers et al. 2022, arXiv:2208.07339): each row of activations is rounded to integers times a scale, the
few columns with much larger numbers, which would make the others' steps coarse, are multiplied in floating point. There
the columns are those above a threshold in a batch; here they are as many in every batch, seen in a short text, so that
what a row gives does not depend on the rows beside it. Gradients are rounded as well.

In the place of float32 alone: where the processor multiplies bfloat16 fast, integers gain a tenth of a step.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from workbench.models.fast.compiled import Loop, can_compile
from workbench.models.fast.frozen import Layer, int8_steps
from workbench.models.precision import PRODUCT, computing_dtype, is_faster

# Columns that are multiplied in floating point, and the least that each of them must have beside it.
OUTLIERS, SHARE_OF_OUTLIERS = 32, 4
# Largest codes of activations: the first where products of any unsigned with any signed byte are exact, the second
# where the processor adds two of them in 16 bits first.
CODE_RANGES = (127, 63)
WEIGHT_RANGE = 127

_quantize = Loop("quantize")
_add_integers = Loop("add_integers")


@cache
def code_range() -> int:
    """The largest code of an activation with which products of integers are exact here; 0 if they aren't faster."""
    if not can_compile():
        return 0
    exact = (largest for largest in CODE_RANGES if _is_exact(largest))
    largest = next(exact, 0)
    integers = torch.ones(PRODUCT, PRODUCT, dtype=torch.int8)
    floats = integers.float()
    faster = largest and is_faster(lambda: torch._int_mm(integers, integers), lambda: floats @ floats)
    return largest if faster else 0


def _is_exact(largest: int) -> bool:
    codes = torch.full((PRODUCT, PRODUCT), 2 * largest + 1, dtype=torch.uint8)
    weights = torch.full((PRODUCT, PRODUCT), WEIGHT_RANGE, dtype=torch.int8)
    expected = PRODUCT * (2 * largest + 1) * WEIGHT_RANGE
    try:  # forwards the weights are turned, backwards not
        return all(bool((torch._int_mm(codes, factor) == expected).all()) for factor in (weights.t(), weights))
    except RuntimeError:  # not on this processor
        return False


class IntegerWeights:
    """The weights at 8 bits of layers that read the same input, as they lie.

    Args:
        layers: of which `is_packed` is true.
        sample: what they read of some text, (..., in), by which the columns of large numbers are chosen.

    Attributes:
        sizes: widths of their outputs.
        outliers: (columns,), of the input, that are multiplied in floating point.
    """

    dtype = torch.float32

    def __init__(self, layers: Sequence[Any], sample: torch.Tensor) -> None:
        self.range = code_range()
        self.codes = [layer.weight.data for layer in layers]  # each (out, in)
        self.scales = [int8_steps(layer) for layer in layers]
        self.sizes = [len(codes) for codes in self.codes]
        self.width = self.codes[0].shape[1]
        largest = sample.reshape(-1, self.width).abs().amax(dim=0)
        self.outliers = largest.topk(min(OUTLIERS, self.width // SHARE_OF_OUTLIERS)).indices
        self._kept = torch.ones(self.width).index_fill_(0, self.outliers, 0.0)
        self._ones = torch.ones(self.width)
        self.columns = [
            codes[:, self.outliers].float() * scale[:, None]
            for codes, scale in zip(self.codes, self.scales, strict=True)
        ]
        # What the offset that makes codes unsigned adds to each product.
        self._added = [((self.range + 1) * codes.sum(dim=1)).int() for codes in self.codes]
        self._added_back = [((self.range + 1) * codes.sum(dim=0)).int() for codes in self.codes]

    def add_products(self, rows: torch.Tensor, results: Sequence[torch.Tensor]) -> None:
        """Add `rows @ weight'` without the columns of outliers to each layer's result.

        Args:
            rows: (rows, in).
            results: (rows, out) for each layer.
        """
        codes, steps = self._quantize(rows, self._kept)
        for weight, scale, added, result in zip(self.codes, self.scales, self._added, results, strict=True):
            _add(result, torch._int_mm(codes, weight.t()), steps, scale, added)

    def add_products_back(self, parts: Sequence[torch.Tensor], result: torch.Tensor) -> None:
        """Add the sum of `part @ weight` to the result.

        Args:
            parts: (rows, out) for each layer.
            result: (rows, in).
        """
        for part, weight, scale, added in zip(parts, self.codes, self.scales, self._added_back, strict=True):
            codes, steps = self._quantize(part, scale)
            _add(result, torch._int_mm(codes, weight), steps, self._ones, added)

    def _quantize(self, rows: torch.Tensor, factors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`rows * factors` as unsigned codes, (rows, width), and the step from code to code, (rows,)."""
        codes = torch.empty(rows.shape, dtype=torch.uint8)
        steps = torch.empty(len(rows))
        _quantize(len(rows), rows, rows.stride(0), factors, codes, steps, rows.shape[1], float(self.range))
        return codes, steps


def _add(
    result: torch.Tensor, products: torch.Tensor, steps: torch.Tensor, scales: torch.Tensor, added: torch.Tensor
) -> None:
    rows, width = result.shape
    _add_integers(rows, result, result.stride(0), products, steps, scales, added, width)


def is_for_integers(layer: Layer) -> bool:
    """Whether a layer of which `is_packed` is true is multiplied in integers."""
    held_at_8 = type(layer.weight).__name__ == "Int8Params"
    return held_at_8 and computing_dtype(8) == torch.float32 and code_range() > 0


class IntegerProjections(torch.autograd.Function):
    """`x W' + b`, with LoRA `+ scale * x A' B'`, for several layers at once, W in integers; W and b frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weights: IntegerWeights,
        biases: Sequence[torch.Tensor | None],
        scales: Sequence[float],
        *factors: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """x (..., in); scales: of each update, none without LoRA; factors: all A, (r, in), then all B, (size, r)."""
        rows = x.reshape(-1, x.shape[-1]).float()
        outliers = rows[:, weights.outliers]
        lows, ups = _updates(rows, scales, factors)
        results = []
        for number, (columns, bias) in enumerate(zip(weights.columns, biases, strict=True)):
            left = torch.cat((lows[number], outliers), dim=1) if lows else outliers
            right = torch.cat((ups[number], columns), dim=1) if ups else columns
            results.append(nn.functional.linear(left, right, bias))
        weights.add_products(rows, results)
        ctx.save_for_backward(rows, *lows, *factors)
        ctx.weights, ctx.scales, ctx.dtype = weights, scales, x.dtype
        return tuple(result.view(*x.shape[:-1], result.shape[1]) for result in results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of x and of the factors."""
        weights, count = ctx.weights, len(ctx.scales)
        rows, *saved = ctx.saved_tensors
        lows, downs, ups = saved[:count], saved[count : 2 * count], saved[2 * count :]
        with torch.autocast(rows.device.type, enabled=False):
            parts = [part.reshape(-1, part.shape[-1]).float().contiguous() for part in gradients]
            x_gradient = rows.new_zeros(rows.shape) if ctx.needs_input_grad[0] else None
            factor_gradients = _back_through_updates(parts, rows, lows, downs, ups, ctx.scales, x_gradient)
            if x_gradient is not None:
                weights.add_products_back(parts, x_gradient)
                x_gradient = x_gradient.view(*gradients[0].shape[:-1], weights.width).to(ctx.dtype)
        return x_gradient, None, None, None, *factor_gradients


def _back_through_updates(
    parts: Sequence[torch.Tensor],
    rows: torch.Tensor,
    lows: Sequence[torch.Tensor],
    downs: Sequence[torch.Tensor],
    ups: Sequence[torch.Tensor],
    scales: Sequence[float],
    x_gradient: torch.Tensor | None,
) -> list[torch.Tensor]:
    """Gradients of all A, then of all B; that of x is added to `x_gradient`."""
    if not scales:
        return []
    each = [(part @ up).mul_(scale) for part, up, scale in zip(parts, ups, scales, strict=True)]
    low_gradient = torch.cat(each, dim=1)
    if x_gradient is not None:
        x_gradient.addmm_(low_gradient, torch.cat(list(downs)))
    of_downs = (low_gradient.t() @ rows).split([len(down) for down in downs])
    return [*of_downs, *(part.t() @ low for part, low in zip(parts, lows, strict=True))]


def _updates(
    rows: torch.Tensor, scales: Sequence[float], factors: Sequence[torch.Tensor]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What the down-projections give, times the scale, and the up-projections."""
    if not scales:
        return [], []
    downs, ups = factors[: len(scales)], factors[len(scales) :]
    low = rows @ torch.cat(list(downs)).t()
    parts = low.split([len(down) for down in downs], dim=1)
    return [part * scale for part, scale in zip(parts, scales, strict=True)], list(ups)
