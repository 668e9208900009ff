"""Grouped-query attention without copies.

Transformers repeats keys and values for every query head before it multiplies, at each step over the whole
cache: for SmolLM2 at 32 rows of 150 tokens, 660 MB of copies for one new token. Queries that share a head can
just as well be put one behind the other: the same products, nothing repeated.
"""

from typing import Any

import numpy as np
import torch
from numba import float32
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig
from transformers.masking_utils import eager_mask

from workbench.models.fast.compiled import FIRST, Loop, bfloat16s, can_compile, exp, load, number, store

GROUPED = "grouped"


@Loop
def _softmax(begin: int, end: int, a: Any) -> None:
    """scores, mask; columns, rows of an example, length, two strides of the mask; scaling.

    Each row of the scores, times the scaling and with its row of the mask added, becomes its softmax.
    """
    columns, rows, length, scaling = a[FIRST + 2], a[FIRST + 3], a[FIRST + 4], number(a, FIRST + 7)
    wide = np.empty(columns, np.float32)
    for row in range(begin, end):
        scores = bfloat16s(a, FIRST, row * columns, columns)
        mask = bfloat16s(a, FIRST + 1, row // rows * a[FIRST + 5] + row % length * a[FIRST + 6], columns)
        most, total = float32(-np.inf), float32(0)
        for i in range(columns):
            wide[i] = load(scores[i]) * scaling + load(mask[i])
            most = wide[i] if wide[i] > most else most
        for i in range(columns):
            wide[i] = exp(wide[i] - most)
            total += wide[i]
        for i in range(columns):
            scores[i] = store(wide[i] / total)


@Loop
def _softmax_backward(begin: int, end: int, a: Any) -> None:
    """gradient, weights, columns, scaling: the gradient of the weights becomes that of the scores."""
    columns, scaling = a[FIRST + 2], number(a, FIRST + 3)
    for row in range(begin, end):
        gradient, weights = bfloat16s(a, FIRST, row * columns, columns), bfloat16s(a, FIRST + 1, row * columns, columns)
        along = float32(0)
        for i in range(columns):
            along += load(gradient[i]) * load(weights[i])
        for i in range(columns):
            gradient[i] = store((load(gradient[i]) - along) * load(weights[i]) * scaling)


class _GroupedAttention(torch.autograd.Function):
    """What `grouped_attention` computes, with nothing between the products but one pass over the scores."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """The shapes of `grouped_attention`, all in bfloat16 -> (batch, length, heads, width)."""
        batch, heads, length, width = query.shape
        groups, cached = key.shape[1], key.shape[2]
        queries = query.reshape(batch * groups, -1, width)
        keys, values = key.reshape(-1, cached, width), value.reshape(-1, cached, width)
        weights = torch.bmm(queries, keys.transpose(1, 2))
        by_example = mask.stride(0) if len(mask) > 1 else 0
        _softmax(
            *(batch * heads * length, weights, mask, cached, heads * length, length),
            *(by_example, mask.stride(2), scaling),
        )
        ctx.save_for_backward(queries, keys, values, weights)
        ctx.shapes, ctx.scaling = (query.shape, key.shape), scaling
        mixed = torch.bmm(weights, values).view(query.shape)
        return mixed.transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of query, key and value."""
        queries, keys, values, weights = ctx.saved_tensors
        query_shape, key_shape = ctx.shapes
        gradient = gradients[0].transpose(1, 2).reshape(queries.shape)
        scores = torch.bmm(gradient, values.transpose(1, 2))
        _softmax_backward(scores.shape[0] * scores.shape[1], scores, weights, scores.shape[2], ctx.scaling)
        return (
            torch.bmm(scores, keys).view(query_shape),
            torch.bmm(scores.transpose(1, 2), queries).view(key_shape),
            torch.bmm(weights.transpose(1, 2), gradient).view(key_shape),
            None,
            None,
        )


def grouped_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Scaled dot-product attention (Vaswani et al. 2017) for grouped queries (Ainslie et al. 2023).

    Args:
        module: the attention layer; only its training mode is read.
        query: (batch, heads, length, width).
        key, value: (batch, groups, cached length, width), `heads` a multiple of `groups`.
        attention_mask: (batch, 1, length, cached length), added to the scores; 0 or the lowest number.
        scaling: factor of the scores.
        dropout: probability, on the weights, in training.

    Returns:
        (batch, length, heads, width), and None in place of the weights.
    """
    batch, heads, length, width = query.shape
    groups, cached = key.shape[1], key.shape[2]
    undropped = not (dropout and module.training)
    if attention_mask is not None and undropped and can_compile(query, key, value, attention_mask):
        mask = attention_mask if attention_mask.stride(3) == 1 else attention_mask.contiguous()
        return _GroupedAttention.apply(query, key, value, mask, scaling), None
    stacked = (query * scaling).reshape(batch, groups, heads // groups * length, width)
    scores = torch.matmul(stacked, key.transpose(2, 3)).view(batch, groups, heads // groups, length, cached)
    if attention_mask is not None:
        scores = scores + attention_mask[:, :, None, :, :cached]
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    mixed = torch.matmul(weights.view(batch, groups, -1, cached).to(value.dtype), value)
    return mixed.view(batch, heads, length, width).transpose(1, 2).contiguous(), None


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, eager_mask)


def shares_heads(config: PretrainedConfig) -> bool:
    """Whether grouped attention serves this model: fewer key heads than query heads, and nothing special added."""
    text = config.get_text_config()
    groups = getattr(text, "num_key_value_heads", None)
    special = any(getattr(text, name, None) for name in ("attn_logit_softcapping", "attn_logit_softcap"))
    sinks = text.model_type == "gpt_oss"
    return bool(groups) and groups < text.num_attention_heads and not special and not sinks
