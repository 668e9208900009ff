"""The product of a gated feed-forward block (Shazeer 2020, arXiv:2002.05202)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn


class _Swish(torch.autograd.Function):
    """`silu(gate) * up` with its gradient written out: nothing kept but the two inputs."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """gate, up (..., width) -> (..., width)."""
        ctx.save_for_backward(gate, up)
        return nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of gate and up."""
        gate, up = ctx.saved_tensors
        gate_gradient = torch.ops.aten.silu_backward(gradients[0] * up, gate)
        return gate_gradient, nn.functional.silu(gate).mul_(gradients[0])


def fast_gated(module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """For a block `down(silu(gate(x)) * up(x))`, if it gives the same on random numbers as the module itself."""
    names = ("gate_proj", "up_proj", "down_proj", "act_fn")
    if not all(isinstance(getattr(module, name, None), nn.Module) for name in names):
        return None
    width = getattr(module.gate_proj, "in_features", None)
    if width is None:
        return None
    weight = next(module.parameters())
    precision = weight.dtype if weight.is_floating_point() else torch.float32  # of what a quantized layer reads
    generator = torch.Generator(device="cpu").manual_seed(0)
    sample = torch.randn(4, width, generator=generator).to(weight.device, precision)
    forward = partial(_gated, module)
    with torch.no_grad():
        same = torch.equal(module(sample), forward(sample))
    return forward if same else None


def _gated(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    gate, up, down = module.gate_proj, module.up_proj, module.down_proj
    return down(_Swish.apply(gate(x), up(x)))  # type: ignore[operator]
