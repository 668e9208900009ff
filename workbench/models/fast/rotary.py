"""Rotary position embeddings (Su et al. 2021, arXiv:2104.09864) in one pass, as is their gradient."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from workbench.models.fast.compiled import FIRST, Loop, bfloat16s, can_compile, load, store

NAME = "apply_rotary_pos_emb"


@Loop
def _rotate(begin: int, end: int, a: Any) -> None:
    """x, result, cos, sin; heads, length, width; strides of x, of the result and of cos and sin; the direction.

    Row by row of x (batch, heads, length, width): `x * cos + rotate_half(x) * sin`, or the rotation back.
    """
    heads, length, width, back = a[FIRST + 4], a[FIRST + 5], a[FIRST + 6], a[FIRST + 14]
    half = width // 2
    for row in range(begin, end):
        example, head, position = row // (heads * length), row // length % heads, row % length
        x = bfloat16s(a, FIRST, example * a[FIRST + 7] + head * a[FIRST + 8] + position * a[FIRST + 9], width)
        y = bfloat16s(a, FIRST + 1, example * a[FIRST + 10] + head * a[FIRST + 11] + position * a[FIRST + 12], width)
        angles = example * a[FIRST + 13] + position * width
        cos, sin = bfloat16s(a, FIRST + 2, angles, width), bfloat16s(a, FIRST + 3, angles, width)
        if back:
            for i in range(half):
                first, second = load(x[i]), load(x[half + i])
                y[i] = store(first * load(cos[i]) + second * load(sin[half + i]))
                y[half + i] = store(second * load(cos[half + i]) - first * load(sin[i]))
        else:
            for i in range(half):
                first, second = load(x[i]), load(x[half + i])
                y[i] = store(first * load(cos[i]) - second * load(sin[i]))
                y[half + i] = store(second * load(cos[half + i]) + first * load(sin[half + i]))


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
        """x (batch, heads, length, width), cos and sin (batch or 1, length, width), all in bfloat16."""
        cos, sin = cos.contiguous(), sin.contiguous()
        ctx.save_for_backward(cos, sin)
        return _rotated(x, torch.empty(x.shape, dtype=x.dtype), cos, sin, back=False)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradient of x, in memory with the heads of a position side by side, as a projection made them."""
        batch, heads, length, width = gradients[0].shape
        result = torch.empty(batch, length, heads, width, dtype=gradients[0].dtype).transpose(1, 2)
        cos, sin = ctx.saved_tensors
        return _rotated(gradients[0], result, cos, sin, back=True), None, None


def _apply(
    original: Any,
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    unsqueeze_dim: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    # A part of each head only, another precision, or the heads behind the positions: left to the original.
    if cos.shape[-1] != q.shape[-1] or not can_compile(q, k, cos, sin) or unsqueeze_dim != 1:
        return original(q, k, cos, sin, unsqueeze_dim=unsqueeze_dim)
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
