"""A model ready to read: its cache, the virtual tokens in front, and how much of a batch fits into memory."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from workbench.device import memory_free, on_cpu
from workbench.models import output_weight

# Tokens that are read at once: on a CPU, activations that fit into its cache are read faster than larger ones.
READ_TOKENS = {"cpu": 2**10}
READ_TOKENS_ELSEWHERE = 2**14
# What the keys and values of a batch may take on a CPU.
CACHE_BYTES = 5 * 2**28
# Of the free memory of another device, the share of these keys and values, of what reading needs and of logits.
CACHE_SHARE, READING_SHARE, LOGIT_SHARE = 0.4, 0.2, 0.2
# Numbers as wide as the hidden states, and as wide as the layers inside, that a layer needs for a token.
STATES_OF_LAYER, INNER_OF_LAYER = 10, 4
# What is computed at once at most, in tokens, where no cache or plain output layer bounds it, and what logits may take.
MOST_TOKENS = 2**14
LOGIT_BYTES = 2**31


@dataclass(frozen=True)
class Context:
    """A model ready to read.

    Attributes:
        module: what to call.
        cache: keys and values of the virtual tokens in front of every row; None for a model that keeps none, such
            as GPT-1, which reads everything again for each new token.
        virtual_tokens: how many there are.
        embedded: the virtual tokens themselves, (rows, virtual tokens, width), where there is no cache for them.
    """

    module: nn.Module
    cache: Any
    virtual_tokens: int = 0
    embedded: torch.Tensor | None = None

    def read(self, input_ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor | None = None) -> Any:
        """What the model says to `input_ids` (rows, length), behind the virtual tokens and what is in the cache.

        Args:
            mask: (rows, virtual tokens + cached + length), 0 on padding; or what is added to attention's scores.
            positions: (rows, length), where the mask doesn't tell them.
        """
        if positions is None:
            positions = _positions(mask)
        if self.cache is not None:
            positions = positions[:, -input_ids.shape[1] :]
            kept = {"past_key_values": self.cache, "use_cache": True}
            return self.module(input_ids=input_ids, attention_mask=mask, position_ids=positions, **kept)
        if self.embedded is None:
            return self.module(input_ids=input_ids, attention_mask=mask, position_ids=positions)
        text = self.module.get_input_embeddings()(input_ids)  # type: ignore[operator]
        embedded = torch.cat([self.embedded[: len(text)].to(text.dtype), text], dim=1)
        return self.module(inputs_embeds=embedded, attention_mask=mask, position_ids=positions)

    def selected(self, rows: torch.Tensor) -> "Context":
        """The same with a cache of its own that holds `rows` of this one's, repeated ones too."""
        from transformers import DynamicCache

        kept = DynamicCache([(layer.keys[rows], layer.values[rows]) for layer in self.cache.layers])
        return replace(self, cache=kept)

    def widened(self, rows: int) -> "Context":
        """The same for so many rows, without a cache."""
        if self.embedded is None:
            return self
        return replace(self, embedded=self.embedded[:1].expand(rows, -1, -1))


def open_context(model: nn.Module, rows: int) -> Context:
    """Put the virtual tokens of prompt learning into a cache; any other model begins with an empty one.

    The cache keeps all keys and values, of layers with a sliding window too (their mask does the sliding): what
    a window has dropped could not come back when the reference is cropped off.
    """
    from transformers import DynamicCache

    config = getattr(model, "active_peft_config", None)
    base: nn.Module = model if config is None else model.get_base_model()  # type: ignore[operator]
    keeps = keeps_cache(model)
    if config is None or not config.is_prompt_learning:
        return Context(model, DynamicCache() if keeps else None)
    prompt = model.get_prompt(rows)  # type: ignore[operator]
    if isinstance(prompt, torch.Tensor):  # embeddings, not keys and values
        embedded = prompt.to(base.get_input_embeddings().weight.dtype)  # type: ignore[operator]
        if not keeps:
            return Context(base, None, config.num_virtual_tokens, embedded)
        prompt = base(inputs_embeds=embedded, past_key_values=DynamicCache(), use_cache=True).past_key_values
    whole = DynamicCache([(layer.keys, layer.values) for layer in prompt.layers])
    return Context(base, whole, config.num_virtual_tokens)


def tokens_at_once(model: nn.Module) -> int:
    """How many tokens are read together."""
    weight = next(model.parameters())
    if weight.device.type in READ_TOKENS:
        return READ_TOKENS[weight.device.type]
    config = model.config.get_text_config()  # type: ignore[union-attr,operator]
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    token = (STATES_OF_LAYER * config.hidden_size + INNER_OF_LAYER * inner) * weight.element_size()
    return max(1, min(READ_TOKENS_ELSEWHERE, int(READING_SHARE * memory_free()) // token))


def parts_of(lengths: Sequence[int], most: int) -> Iterator[slice]:
    """Parts, one behind the other, of what is so long: each of at most `most` tokens, padded to its longest, or of one.

    Those that follow in order of length leave little padding.
    """
    start = longest = 0
    for end, length in enumerate(lengths):
        longest = max(longest, length)
        if end > start and longest * (end + 1 - start) > most:
            yield slice(start, end)
            start, longest = end, length
    yield slice(start, len(lengths))


def most_logits(model: nn.Module, linear_output: bool) -> int:
    """At how many positions logits fit; where the output layer is linear, they are never in memory together."""
    if linear_output:
        return MOST_TOKENS
    room = LOGIT_BYTES if on_cpu() else min(LOGIT_BYTES, int(LOGIT_SHARE * memory_free()))
    return max(1, room // (4 * len(output_weight(model))))


def keeps_cache(model: nn.Module) -> bool:
    """Whether the model can go on from keys and values; GPT-1 can't."""
    base: nn.Module = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    return "past_key_values" in inspect.signature(base.forward).parameters


def most_tokens(model: nn.Module) -> int:
    """How many tokens of prompts and answers a batch can have in bounded memory."""
    return max(1, cache_room() // cache_bytes(model)) if keeps_cache(model) else MOST_TOKENS


def cache_room() -> int:
    """Bytes that the keys and values of a batch may take."""
    return CACHE_BYTES if on_cpu() else int(CACHE_SHARE * memory_free())


def cache_bytes(model: nn.Module) -> int:
    """What the keys and values of a token take."""
    config = model.config.get_text_config()  # type: ignore[union-attr,operator]
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    size = next(model.parameters()).element_size()
    return int(2 * config.num_hidden_layers * heads * width * size)


def leaves_window(model: nn.Module, longest: int) -> bool:
    """Whether virtual tokens could fall out of a sliding window that counts `longest` columns behind them."""
    config = getattr(model, "active_peft_config", None)
    window = getattr(model.config.get_text_config(), "sliding_window", None)  # type: ignore[union-attr,operator]
    if config is None or not config.is_prompt_learning or not window:
        return False
    return bool(config.num_virtual_tokens + longest > window)


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """Positions counted over what is attended to: padding takes none."""
    return (mask.cumsum(dim=-1) - 1).clamp(min=0)
