"""Grouped-query attention without copies.

Transformers repeats keys and values for every query head before it multiplies, at each step over the whole
cache: for SmolLM2 at 32 rows of 150 tokens, 660 MB of copies for one new token. Queries that share a head can
just as well be put one behind the other: the same products, nothing repeated.
"""

from typing import Any, TypeGuard

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig
from transformers.masking_utils import eager_mask

from workbench.models.fast.compiled import Loop, can_compile

GROUPED = "grouped"
# What an architecture may add to attention, which this here does not: given one of these, it can't be used.
ADDITIONS = ("s_aux", "softcap", "position_bias", "head_mask")

# Rows of a batch whose padding is left out together while answers are written.
ROWS_TOGETHER = 32

_softmax = Loop("softmax")
_softmax_backward = Loop("softmax_backward")


class _GroupedAttention(torch.autograd.Function):
    """What `grouped_attention` computes, with nothing between the products but one pass over the scores."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """The shapes of `grouped_attention`, of one precision -> (batch, length, heads, width)."""
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
    @once_differentiable
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


def _in_parts(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scaling: float
) -> torch.Tensor:
    """The same for one new token a row, part by part of the batch, without columns that no row of a part sees in front.

    Prompts that are padded on the left and stand in order of length share their padding.
    """
    starts = (mask[:, 0, 0] > torch.finfo(mask.dtype).min).int().argmax(dim=1).tolist()
    found = []
    for first in range(0, len(query), ROWS_TOGETHER):
        rows = slice(first, first + ROWS_TOGETHER)
        start = min(starts[rows])
        keys, values = key[rows, :, start:], value[rows, :, start:]
        found.append(_GroupedAttention.apply(query[rows], keys, values, mask[rows, ..., start:].contiguous(), scaling))
    return torch.cat(found)


def _is_simple(mask: torch.Tensor | None, query: torch.Tensor, cached: int) -> TypeGuard[torch.Tensor]:
    """Whether there is a mask, the same for all heads, that the compiled softmax can add."""
    return (
        mask is not None
        and not mask.requires_grad
        and can_compile(mask, query)
        and mask.shape[0] in (1, len(query))
        and mask.shape[1:3] == (1, query.shape[2])
        and mask.shape[3] == cached
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

    Raises:
        NotImplementedError: the model adds something to attention.
    """
    if added := [name for name in ADDITIONS if kwargs.get(name) is not None]:
        raise NotImplementedError(f"grouped attention knows no {', '.join(added)}")
    batch, heads, length, width = query.shape
    groups, cached = key.shape[1], key.shape[2]
    if not (dropout and module.training) and _is_simple(attention_mask, query, cached) and can_compile(key, value):
        if length == 1 and len(attention_mask) == batch > ROWS_TOGETHER and not torch.is_grad_enabled():
            return _in_parts(query, key, value, attention_mask, float(scaling)), None
        return _GroupedAttention.apply(query, key, value, attention_mask.contiguous(), float(scaling)), None
    stacked = (query * scaling).reshape(batch, groups, heads // groups * length, width)
    scores = torch.matmul(stacked, key.transpose(2, 3)).view(batch, groups, heads // groups, length, cached)
    if attention_mask is not None:
        mask = attention_mask[..., :cached]
        by_head = mask.expand(-1, heads, -1, -1).unflatten(1, (groups, -1)) if mask.shape[1] > 1 else mask[:, :, None]
        scores = scores + by_head
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    mixed = torch.matmul(weights.view(batch, groups, -1, cached).to(value.dtype), value)
    return mixed.view(batch, heads, length, width).transpose(1, 2).contiguous(), None


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, eager_mask)


def shares_heads(config: PretrainedConfig) -> bool:
    """Whether there are fewer key heads than query heads, so that grouped attention saves copies."""
    text = config.get_text_config()
    groups = getattr(text, "num_key_value_heads", None)
    return bool(groups) and groups < text.num_attention_heads
