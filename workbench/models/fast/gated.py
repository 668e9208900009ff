"""The product of a gated feed-forward block (Shazeer 2020, arXiv:2002.05202)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from workbench.models.fast.compiled import Loop, can_compile

_swish = Loop("swish")
_swish_backward = Loop("swish_backward")


class _Swish(torch.autograd.Function):
    """`silu(gate) * up`, nothing kept but the two inputs."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """gate, up (..., width) -> (..., width)."""
        gates, ups = _rows(gate), _rows(up)
        result = torch.empty(gate.shape, dtype=gate.dtype)
        _swish(len(gates), gates, gates.stride(0), ups, ups.stride(0), result, gates.shape[1])
        ctx.save_for_backward(gates, ups)
        return result

    @staticmethod
    @once_differentiable
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
    formula = partial(_formula, module)
    # Large numbers show limits, and training a dropout, of which the formula knows nothing.
    probes = [(sample, False), (1000 * sample, False), (sample, True)]
    return partial(_gated, module) if all(_is_same(module, formula, *probe) for probe in probes) else None


def _is_same(module: nn.Module, formula: Callable[..., torch.Tensor], x: torch.Tensor, training: bool) -> bool:
    modes = {child: child.training for child in module.modules()}
    results = []
    try:
        module.train(training)
        with torch.no_grad(), torch.random.fork_rng():
            for function in (module, formula):
                torch.manual_seed(0)
                results.append(function(x))
    finally:
        for child, mode in modes.items():
            child.training = mode
    return torch.equal(*results)


def _formula(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    gate, up = module.gate_proj(x), module.up_proj(x)  # type: ignore[operator]
    return module.down_proj(nn.functional.silu(gate) * up)  # type: ignore[operator]


def _gated(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    gate, up = module.gate_proj(x), module.up_proj(x)  # type: ignore[operator]
    product = _Swish.apply(gate, up) if can_compile(gate, up) else nn.functional.silu(gate) * up
    return module.down_proj(product)  # type: ignore[operator]
