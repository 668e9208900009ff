"""Rotary position embeddings (Su et al. 2021, arXiv:2104.09864) in one pass, as is their gradient."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from workbench.models.fast.compiled import Loop, can_compile

_rotate = Loop("rotate")
NAME = "apply_rotary_pos_emb"


def _rotated(x: torch.Tensor, result: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, back: bool) -> torch.Tensor:
    batch, heads, length, width = x.shape
    if x.stride(3) != 1:
        x = x.contiguous()
    _rotate(
        *(batch * heads * length, x, result, cos, sin, heads, length, width),
        *(*x.stride()[:3], *result.stride()[:3], cos.stride(0) if len(cos) > 1 else 0, int(back)),
    )
    return result


class _Rotate(torch.autograd.Function):
    """`x * cos + rotate_half(x) * sin`; the gradient is the rotation back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """x (batch, heads, length, width), cos and sin (batch or 1, length, width), of one precision."""
        cos, sin = cos.contiguous(), sin.contiguous()
        ctx.save_for_backward(cos, sin)
        return _rotated(x, torch.empty(x.shape, dtype=x.dtype), cos, sin, back=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradient of x, in memory with the heads of a position side by side, as a projection made them."""
        batch, heads, length, width = gradients[0].shape
        result = torch.empty(batch, length, heads, width, dtype=gradients[0].dtype).transpose(1, 2)
        cos, sin = ctx.saved_tensors
        return _rotated(gradients[0], result, cos, sin, back=True), None, None


def _apply(original: Any, *arguments: Any, **settings: Any) -> Any:
    # A part of each head only, another precision, the heads behind the positions, one tensor instead of two: left to
    # the original.
    if len(arguments) != 4 or settings.get("unsqueeze_dim", 1) != 1 or settings.keys() - {"unsqueeze_dim"}:
        return original(*arguments, **settings)
    q, k, cos, sin = arguments
    angles = ((1, *q.shape[2:]), (len(q), *q.shape[2:]))
    if not can_compile(q, k, cos, sin) or cos.shape not in angles or sin.shape != cos.shape:
        return original(*arguments, **settings)
    return _Rotate.apply(q, cos, sin), _Rotate.apply(k, cos, sin)


@contextmanager
def fast_rotary(model: nn.Module) -> Iterator[None]:
    """While the block runs, rotate in the modules of Transformers that `model` is made of, where it is the same.

    The rotation is a function of the module that defines an architecture, not a method: it is replaced there.
    """
    homes = {type(module).__module__ for module in model.modules()}
    replaced = {}
    for home in homes:
        original = getattr(sys.modules[home], NAME, None)
        if home.startswith("transformers.models.") and original is not None and _is_same(original):
            replaced[home] = original
            setattr(sys.modules[home], NAME, partial(_apply, original))
    try:
        yield
    finally:
        for home, original in replaced.items():
            setattr(sys.modules[home], NAME, original)


def _is_same(original: Any) -> bool:
    """Whether `original` rotates random numbers as the formula says."""
    generator = torch.Generator(device="cpu").manual_seed(0)
    q, k = torch.randn(2, 4, 3, 8, generator=generator), torch.randn(2, 2, 3, 8, generator=generator)
    angles = torch.randn(1, 3, 4, generator=generator).repeat(1, 1, 2)
    try:
        expected = original(q, k, angles.cos(), angles.sin(), unsqueeze_dim=1)
    except (TypeError, ValueError, RuntimeError):  # another signature or other shapes, as of two dimensions
        return False
    return len(expected) == 2 and all(
        one.shape == x.shape and torch.allclose(one, x * angles.cos() + _half_turned(x) * angles.sin(), atol=1e-6)
        for one, x in zip(expected, (q, k), strict=True)
    )


def _half_turned(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)
