"""The product of a gated feed-forward block (Shazeer 2020, arXiv:2002.05202)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from numba import float32
from torch import nn

from workbench.models.fast.compiled import FIRST, Loop, bfloat16s, can_compile, exp, load, store


@Loop
def _swish(begin: int, end: int, a: Any) -> None:
    """gate, its stride, up, its stride, result, width -> silu(gate) * up."""
    width = a[FIRST + 5]
    for row in range(begin, end):
        gate = bfloat16s(a, FIRST, row * a[FIRST + 1], width)
        up = bfloat16s(a, FIRST + 2, row * a[FIRST + 3], width)
        result = bfloat16s(a, FIRST + 4, row * width, width)
        for i in range(width):
            g = load(gate[i])
            result[i] = store(g / (float32(1) + exp(-g)) * load(up[i]))


@Loop
def _swish_backward(begin: int, end: int, a: Any) -> None:
    """gate, its stride, up, its stride, gradient, two results, width -> the gradients of gate and up."""
    width = a[FIRST + 7]
    for row in range(begin, end):
        gate = bfloat16s(a, FIRST, row * a[FIRST + 1], width)
        up = bfloat16s(a, FIRST + 2, row * a[FIRST + 3], width)
        gradient = bfloat16s(a, FIRST + 4, row * width, width)
        gate_gradient = bfloat16s(a, FIRST + 5, row * width, width)
        up_gradient = bfloat16s(a, FIRST + 6, row * width, width)
        for i in range(width):
            g, back = load(gate[i]), load(gradient[i])
            sigmoid = float32(1) / (float32(1) + exp(-g))
            gate_gradient[i] = store(back * load(up[i]) * sigmoid * (float32(1) + g * (float32(1) - sigmoid)))
            up_gradient[i] = store(back * g * sigmoid)


class _Swish(torch.autograd.Function):
    """`silu(gate) * up`, nothing kept but the two inputs."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """gate, up (..., width) in bfloat16 -> (..., width)."""
        gates, ups = _rows(gate), _rows(up)
        result = torch.empty(gate.shape, dtype=gate.dtype)
        _swish(len(gates), gates, gates.stride(0), ups, ups.stride(0), result, gates.shape[1])
        ctx.save_for_backward(gates, ups)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of gate and up."""
        gate, up = ctx.saved_tensors
        shape, gradient = gradients[0].shape, gradients[0].contiguous()
        gate_gradient, up_gradient = torch.empty_like(gradient), torch.empty_like(gradient)
        _swish_backward(
            len(gate), gate, gate.stride(0), up, up.stride(0), gradient, gate_gradient, up_gradient, shape[-1]
        )
        return gate_gradient, up_gradient


def _rows(x: torch.Tensor) -> torch.Tensor:
    """x as a matrix whose rows may lie apart."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def fast_gated(module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """For a block `down(silu(gate(x)) * up(x))`, if that gives the same on random numbers as the module itself."""
    names = ("gate_proj", "up_proj", "down_proj", "act_fn")
    if not all(isinstance(getattr(module, name, None), nn.Module) for name in names):
        return None
    width = getattr(module.gate_proj, "in_features", None)
    weight = next(module.parameters())
    precision = weight.dtype if weight.is_floating_point() else torch.bfloat16  # of what a quantized layer reads
    if width is None or not can_compile(torch.empty(0, dtype=precision, device=weight.device)):
        return None
    generator = torch.Generator(device="cpu").manual_seed(0)
    sample = torch.randn(4, width, generator=generator).to(weight.device, precision)
    gate, up, down = module.gate_proj, module.up_proj, module.down_proj
    with torch.no_grad():
        same = torch.equal(module(sample), down(nn.functional.silu(gate(sample)) * up(sample)))  # type: ignore[operator]
    return partial(_gated, module) if same else None


def _gated(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    gate, up = module.gate_proj(x), module.up_proj(x)  # type: ignore[operator]
    product = _Swish.apply(gate, up) if can_compile(gate, up) else nn.functional.silu(gate) * up
    return module.down_proj(product)  # type: ignore[operator]
