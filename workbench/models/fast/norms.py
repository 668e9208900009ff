"""RMSNorm with its gradient written out."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from workbench.models.fast.compiled import Loop, can_compile

_normalize = Loop("normalize")
_normalize_backward = Loop("normalize_backward")


class _RootMeanSquareNorm(torch.autograd.Function):
    """RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467) in one pass each way, statistics in float32."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """x (..., width), weight (width,) in float32 -> (..., width)."""
        x = x.contiguous()
        result = torch.empty_like(x)
        scale = torch.empty(x.shape[:-1], dtype=torch.float32)
        _normalize(scale.numel(), x, weight, result, scale, len(weight), eps)
        ctx.save_for_backward(x, weight, scale)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradient of x."""
        x, weight, scale = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        result = torch.empty_like(x)
        _normalize_backward(scale.numel(), x, weight, scale, gradient, result, len(weight))
        return result, None, None


def fast_rms_norm(module: nn.Module) -> Callable[..., torch.Tensor] | None:
    """For a frozen RMSNorm, if it gives the same on random numbers as the module itself."""
    weight = getattr(module, "weight", None)
    if "RMSNorm" not in type(module).__name__ or not isinstance(weight, torch.Tensor) or weight.requires_grad:
        return None
    if not can_compile(weight):
        return None
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not isinstance(eps, float) or weight.dim() != 1 or len(inspect.signature(module.forward).parameters) != 1:
        return None
    generator = torch.Generator(device="cpu").manual_seed(0)
    # In float32 and number by number: in bfloat16, a factor of 200 and Gemma's 1 + 200 look alike. Rows from small to
    # large show where eps enters.
    sample = torch.randn(8, len(weight), generator=generator) * torch.logspace(-3, 1, 8)[:, None]
    expected = module(sample)
    scale = torch.rsqrt(sample.square().mean(-1, keepdim=True) + eps)
    for factors in (weight.detach().float(), 1 + weight.detach().float()):  # Gemma keeps the weight without its 1
        if expected.dtype == torch.float32 and torch.allclose(expected, sample * scale * factors, rtol=1e-5, atol=1e-6):
            return partial(_rms_norm, type(module).forward.__get__(module), factors, eps, weight.dtype)
    return None


def _rms_norm(
    stock: Callable[[torch.Tensor], torch.Tensor],
    weight: torch.Tensor,
    eps: float,
    precision: torch.dtype,
    x: torch.Tensor,
) -> torch.Tensor:
    return _RootMeanSquareNorm.apply(x, weight, eps) if x.dtype == precision and can_compile(x) else stock(x)
