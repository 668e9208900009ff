"""Rotary position embeddings (Su et al. 2021, arXiv:2104.09864) with the gradient written out."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

NAME = "apply_rotary_pos_emb"


class _Rotate(torch.autograd.Function):
    """`x * cos + rotate_half(x) * sin`; the gradient is the rotation back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """x (batch, heads, length, width), cos and sin (batch or 1, 1, length, width)."""
        ctx.save_for_backward(cos, sin)
        half = x.shape[-1] // 2
        rotated = x * cos
        rotated[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
        rotated[..., half:].addcmul_(x[..., :half], sin[..., half:])
        return rotated

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradient of x."""
        cos, sin = ctx.saved_tensors
        gradient = gradients[0]
        half = gradient.shape[-1] // 2
        back = gradient * cos
        back[..., :half].addcmul_(gradient[..., half:], sin[..., half:])
        back[..., half:].addcmul_(gradient[..., :half], sin[..., :half], value=-1)
        return back, None, None


def _apply(
    original: Any,
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    unsqueeze_dim: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    if cos.shape[-1] != q.shape[-1] or cos.dtype != q.dtype:  # a part of each head only, or in another precision
        return original(q, k, cos, sin, unsqueeze_dim=unsqueeze_dim)
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
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
    """Whether `original` gives the same as ours on random numbers."""
    generator = torch.Generator(device="cpu").manual_seed(0)
    q, k = torch.randn(2, 4, 3, 8, generator=generator), torch.randn(2, 2, 3, 8, generator=generator)
    angles = torch.randn(1, 3, 4, generator=generator).repeat(1, 1, 2)
    try:
        expected = original(q, k, angles.cos(), angles.sin(), unsqueeze_dim=1)
    except (TypeError, ValueError, RuntimeError):  # another signature or other shapes, as of two dimensions
        return False
    got = _apply(original, q, k, angles.cos(), angles.sin())
    return len(expected) == 2 and all(
        one.shape == other.shape and torch.allclose(one, other, atol=1e-6)
        for one, other in zip(expected, got, strict=True)
    )
