"""Grouped-query attention without copies.

Transformers repeats keys and values for every query head before it multiplies, at each step over the whole
cache: for SmolLM2 at 32 rows of 150 tokens, 660 MB of copies for one new token. Queries that share a head can
just as well be put one behind the other: the same products, nothing repeated.
"""

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig
from transformers.masking_utils import eager_mask

GROUPED = "grouped"


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
