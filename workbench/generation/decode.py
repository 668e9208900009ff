"""Greedy answers and the likelihood of the references out of one pass over each batch.

`generate` would read every prompt once for its answer and once more for the likelihood of its reference, and
would go on computing rows that have ended. Here prompt and reference are read together, the reference's keys
and values are cropped off the cache again, and rows that have ended leave the batch.
"""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from workbench.data.render import Rendered
from workbench.generation.cache import concatenate_caches
from workbench.models import linear_cross_entropy, output_layer, output_of, output_weight

# Tokens that are read at once: on a CPU, activations that fit into its cache are read faster than larger ones.
READ_TOKENS = {"cpu": 2**10}
READ_TOKENS_ELSEWHERE = 2**14
# What the keys and values of a batch may take.
CACHE_BYTES = 5 * 2**28
# What is computed at once at most, in tokens, where no cache or plain output layer bounds it, and what logits may take.
MOST_TOKENS = 2**14
LOGIT_BYTES = 2**31
# Rows leave the batch, which copies the cache, when this share of it has ended.
LEAVING = 0.125


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What came of one example: new tokens without the end of turn, and the reference's likelihood in nats."""

    tokens: list[int]
    nll: float


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


@torch.inference_mode()
def decode_batch(
    model: nn.Module,
    batch: Sequence[Rendered],
    end_ids: Sequence[int],
    pad_id: int,
    max_new_tokens: int,
    linear_output: bool = False,
) -> list[Decoded]:
    """Answer the prompts of `batch` greedily, and measure their references.

    Args:
        model: causal language model, with or without an adapter, in evaluation mode.
        end_ids: tokens at which an answer ends.
        pad_id: fills up shorter rows; it is never attended to.
        max_new_tokens: most tokens of an answer.
        plain_output: `has_plain_output(model)` said so: references are then measured without their logits.
    """
    prompt_length = max(len(item.prompt_ids) for item in batch)
    longest = prompt_length + max(*(len(item.completion_ids) for item in batch), max_new_tokens)
    if len(batch) > 1 and leaves_window(model, longest):
        # A window counts columns: padding between virtual tokens and prompt would push them out of it too early.
        rest = (end_ids, pad_id, max_new_tokens, linear_output)
        return [decode_batch(model, [item], *rest)[0] for item in batch]
    at_once = min(tokens_at_once(model), most_logits(model, linear_output))
    parts = [batch[part] for part in parts_of([item.length for item in batch], at_once)]
    read = [_read(model, part, pad_id, linear_output) for part in parts]
    nll = torch.cat([part.nll for part in read]).tolist()
    input_ids = torch.cat([_padded(part.input_ids, prompt_length, pad_id) for part in read])
    mask = torch.cat([part.padded_mask(prompt_length) for part in read])
    next_tokens = torch.cat([part.next_tokens for part in read])
    context = read[0].context
    if context.cache is not None:
        context = replace(context, cache=concatenate_caches([part.context.cache for part in read], max_new_tokens))
    else:
        context = context.widened(len(batch))
    del read  # and the caches of the parts with it
    answers = _continue(context, input_ids, mask, next_tokens, end_ids, max_new_tokens)
    return [Decoded(tokens=tokens, nll=value) for tokens, value in zip(answers, nll, strict=True)]


def tokens_at_once(model: nn.Module) -> int:
    """How many tokens are read together."""
    return READ_TOKENS.get(next(model.parameters()).device.type, READ_TOKENS_ELSEWHERE)


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
    """At how many positions logits fit; where the output is plain, they are never in memory together."""
    return MOST_TOKENS if linear_output else LOGIT_BYTES // (4 * len(output_weight(model)))


def keeps_cache(model: nn.Module) -> bool:
    """Whether the model can go on from keys and values; GPT-1 can't."""
    base: nn.Module = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    return "past_key_values" in inspect.signature(base.forward).parameters


def most_tokens(model: nn.Module) -> int:
    """How many tokens of prompts and answers a batch can have in bounded memory."""
    return CACHE_BYTES // cache_bytes(model) if keeps_cache(model) else MOST_TOKENS


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


@dataclass(frozen=True)
class _Reading:
    """Prompts that were read: what goes on from them, and how likely their references are."""

    context: Context
    input_ids: torch.Tensor
    mask: torch.Tensor
    next_tokens: torch.Tensor
    nll: torch.Tensor

    def padded_mask(self, prompt_length: int) -> torch.Tensor:
        """The mask, of prompts as long as `prompt_length`: their padding comes first.

        Where virtual tokens aren't in a cache but are read again each time, they stay in front of it.
        """
        length = self.context.virtual_tokens + prompt_length
        first = 0 if self.context.cache is not None else self.context.virtual_tokens
        return torch.cat([self.mask[:, :first], _padded(self.mask[:, first:], length - first, 0)], dim=1)


def _padded(rows: torch.Tensor, length: int, fill: int) -> torch.Tensor:
    """Rows with `fill` in front, so that they have `length`."""
    return nn.functional.pad(rows, (length - rows.shape[1], 0), value=fill)


def _read(model: nn.Module, batch: Sequence[Rendered], pad_id: int, linear_output: bool) -> _Reading:
    """Read prompts, padded on the left, and their references behind them."""
    prompt_length = max(len(item.prompt_ids) for item in batch)
    context = open_context(model, len(batch))
    device, virtual = output_weight(model).device, context.virtual_tokens
    reference_length = max(len(item.completion_ids) for item in batch)
    # Prompts end in the same column, references begin in the next one.
    rows, masks = [], []
    for item in batch:
        left, right = prompt_length - len(item.prompt_ids), reference_length - len(item.completion_ids)
        rows.append([pad_id] * left + item.prompt_ids + item.completion_ids + [pad_id] * right)
        masks.append([1] * virtual + [0] * left + [1] * item.length + [0] * right)
    input_ids, mask = torch.tensor(rows, device=device), torch.tensor(masks, device=device)
    predicts = torch.zeros_like(input_ids, dtype=torch.bool)
    predicts[:, prompt_length - 1 : -1] = mask[:, virtual + prompt_length :].bool()
    targets = input_ids[:, 1:][predicts[:, :-1]]
    counts = predicts.sum(dim=1)
    first = counts.cumsum(0) - counts  # among all positions that predict, the ends of the prompts

    def predicting(hidden: torch.Tensor) -> torch.Tensor:
        return hidden[:, hidden.shape[1] - predicts.shape[1] :][
            predicts
        ]  # virtual tokens without a cache are read along

    with output_of(model, predicting, hidden=linear_output):
        output = context.read(input_ids, mask)
    if linear_output:
        losses = linear_cross_entropy(output.logits, output_weight(model), targets)
        behind_prompts = output_layer(model)(output.logits[first].to(output_weight(model).dtype))
    else:
        losses = nn.functional.cross_entropy(output.logits.float(), targets, reduction="none")
        behind_prompts = output.logits[first]
    if context.cache is not None:
        context = replace(context, cache=output.past_key_values)
        context.cache.crop(-reference_length)
    return _Reading(
        context=context,
        input_ids=input_ids[:, :prompt_length],
        mask=mask[:, : virtual + prompt_length],
        next_tokens=behind_prompts.argmax(dim=-1),
        nll=torch.zeros(len(batch), device=device).index_add_(0, predicts.nonzero()[:, 0], losses),
    )


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """Positions counted over what is attended to: padding takes none."""
    return (mask.cumsum(dim=-1) - 1).clamp(min=0)


def _continue(
    context: Context,
    input_ids: torch.Tensor,
    mask: torch.Tensor,
    next_tokens: torch.Tensor,
    end_ids: Sequence[int],
    max_new_tokens: int,
) -> list[list[int]]:
    """New tokens of each row, up to its end of turn."""
    answers: list[list[int]] = [[] for _ in range(len(mask))]
    ends = torch.tensor(list(end_ids), device=mask.device)
    rows = list(range(len(mask)))  # which answer each row of the batch belongs to
    open_rows = torch.ones(len(mask), dtype=torch.bool, device=mask.device)
    for count in range(1, max_new_tokens + 1):
        open_rows &= ~torch.isin(next_tokens, ends)
        for row, token, is_open in zip(rows, next_tokens.tolist(), open_rows.tolist(), strict=True):
            if is_open:
                answers[row].append(token)
        if count == max_new_tokens or not open_rows.any():
            break
        if (~open_rows).float().mean() >= LEAVING:
            staying = open_rows.nonzero()[:, 0]
            if context.cache is not None:
                context.cache.batch_select_indices(staying)
            rows = [rows[index] for index in staying.tolist()]
            input_ids, mask = input_ids[staying], mask[staying]
            next_tokens, open_rows = next_tokens[staying], open_rows[staying]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        if context.cache is not None:
            output = context.read(next_tokens[:, None], mask)
        else:
            input_ids = torch.cat([input_ids, next_tokens[:, None]], dim=1)
            with output_of(context.module, lambda hidden: hidden[:, -1:], hidden=False):
                output = context.read(input_ids, mask)
        next_tokens = output.logits[:, -1].argmax(dim=-1)
    return answers
