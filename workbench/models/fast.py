"""Shorter ways to the same numbers, taken only where they were seen to be the same.

Each is put on a module's `forward` for as long as a training lasts and taken off again, so that nothing of it
stays in a model that is saved, merged or evaluated.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import nn


@contextmanager
def fast_training(model: nn.Module) -> Iterator[int]:
    """While the block runs, train `model` along the fast paths. Yields how many modules take one."""
    changed: list[nn.Module] = []
    for module in model.modules():
        forward = _fast_lora(module) or _fast_rms_norm(module)
        if forward is not None:
            module.forward = forward
            changed.append(module)
    try:
        yield len(changed)
    finally:
        for module in changed:
            del module.forward


class _LowRankUpdate(torch.autograd.Function):
    """`x W' + b + scale * x A' B'` with every product accumulated in place, and W frozen.

    PEFT's own layer makes the update as a tensor of its own, scales it and adds it: three passes over an
    activation of full width, and as many backwards.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """x (..., in), weight (out, in), down (r, in), up (out, r) -> (..., out) in the dtype of weight."""
        rows = x.reshape(-1, x.shape[-1]).to(weight.dtype)
        down_cast, up_cast = down.to(weight.dtype), (up * scale).to(weight.dtype)
        low = rows @ down_cast.t()
        result = rows @ weight.t() if bias is None else torch.addmm(bias, rows, weight.t())
        result.addmm_(low, up_cast.t())
        ctx.save_for_backward(rows, weight, down_cast, up_cast, low)
        ctx.scale, ctx.shape, ctx.dtype = scale, x.shape, x.dtype
        return result.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of x, down and up."""
        rows, weight, down_cast, up_cast, low = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, gradients[0].shape[-1])
        low_gradient = gradient @ up_cast
        x_gradient = None
        if ctx.needs_input_grad[0]:
            x_gradient = (gradient @ weight).addmm_(low_gradient, down_cast).view(ctx.shape).to(ctx.dtype)
        down_gradient = (low_gradient.t() @ rows).float()
        up_gradient = (gradient.t() @ low).float().mul_(ctx.scale)
        return x_gradient, None, None, down_gradient, up_gradient, None


def _fast_lora(module: nn.Module) -> Callable[..., torch.Tensor] | None:
    """For a plain LoRA layer: one adapter, no dropout, no variant such as DoRA, on a float weight that is frozen."""
    if type(module) is not LoraLinear or module.merged or module.disable_adapters:
        return None
    base, names = module.base_layer, module.active_adapters
    plain = (
        type(base) is nn.Linear
        and not base.weight.requires_grad
        and len(names) == 1
        and names[0] in module.lora_A
        and names[0] not in module.lora_variant
        and isinstance(module.lora_dropout[names[0]], nn.Identity)
        and module.lora_B[names[0]].bias is None
    )
    return partial(_lora_forward, module, names[0]) if plain else None


def _lora_forward(layer: LoraLinear, name: str, x: torch.Tensor) -> torch.Tensor:
    base = layer.base_layer
    down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
    return _LowRankUpdate.apply(x, base.weight, base.bias, down, up, layer.scaling[name])


class _RootMeanSquareNorm(torch.autograd.Function):
    """RMSNorm (Zhang and Sennrich 2019) with its gradient written out: half the time of the composed one."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """x (..., width), weight (width,) -> (..., width) in the dtype of x; computed in float32."""
        wide = x.float()
        scale = torch.linalg.vecdot(wide, wide).div_(x.shape[-1]).add_(eps).rsqrt_().unsqueeze(-1)
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).mul_(weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradient of x."""
        x, weight, scale = ctx.saved_tensors
        wide, gradient = x.float(), gradients[0].float() * weight
        along = torch.linalg.vecdot(gradient, wide).unsqueeze(-1) * scale.pow(3).div_(x.shape[-1])
        return gradient.mul_(scale).sub_(wide * along).to(x.dtype), None, None


def _fast_rms_norm(module: nn.Module) -> Callable[..., torch.Tensor] | None:
    """For a frozen RMSNorm, if it gives the same on random numbers as the module itself."""
    weight = getattr(module, "weight", None)
    if "RMSNorm" not in type(module).__name__ or not isinstance(weight, torch.Tensor) or weight.requires_grad:
        return None
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not isinstance(eps, float) or weight.dim() != 1 or len(inspect.signature(module.forward).parameters) != 1:
        return None
    generator = torch.Generator(device="cpu").manual_seed(0)
    sample = torch.randn(8, len(weight), generator=generator).to(weight.device, weight.dtype)
    expected, got = module(sample).float(), _RootMeanSquareNorm.apply(sample, weight, eps).float()
    # The module rounds to the weight's precision once more before it multiplies.
    tolerance = 2 * torch.finfo(weight.dtype).eps * expected.abs().max()
    return partial(_rms_norm, weight, eps) if bool((expected - got).abs().max() <= tolerance) else None


def _rms_norm(weight: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
    return _RootMeanSquareNorm.apply(x, weight, eps)
