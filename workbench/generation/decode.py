"""Answers and the likelihood of their references out of one pass over each batch.

`generate` would read every prompt once for its answer and once more for the likelihood of its reference, and
would go on computing rows that have ended. Here prompt and reference are read together, the reference's keys
and values are cropped off the cache again, and rows that have ended leave the batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from workbench.data.render import Rendered
from workbench.generation.cache import concatenate_caches
from workbench.generation.context import Context, leaves_window, most_logits, open_context, parts_of, tokens_at_once
from workbench.generation.sampling import Sampler, Sampling
from workbench.models import linear_cross_entropy, output_layer, output_of, output_weight

# Rows leave the batch, which copies the cache, when this share of it has ended.
LEAVING = 0.125


Step = list[tuple[int, int]]
GREEDY = Sampling()


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What came of one example: new tokens without the end of turn, and the reference's likelihood.

    Attributes:
        nll: negative log-likelihood of the reference, in nats.
    """

    tokens: list[int]
    nll: float


@dataclass(frozen=True, kw_only=True)
class OpenBatch:
    """A batch whose prompts and references were read, and whose answers are about to be written.

    Attributes:
        nlls: negative log-likelihood of each reference, in nats.
        steps: at each step the rows that go on, with their new tokens.
    """

    nlls: list[float]
    steps: Iterator[Step]


def decode_batch(
    model: nn.Module,
    batch: Sequence[Rendered],
    end_ids: Sequence[int],
    pad_id: int,
    max_new_tokens: int,
    linear_output: bool = False,
    sampler: Sampler | None = None,
    stopped: Callable[[Sequence[int]], bool] | None = None,
) -> list[Decoded]:
    """Answer the prompts of `batch`, and measure their references.

    Args:
        model: causal language model, with or without an adapter, in evaluation mode.
        end_ids: tokens at which an answer ends.
        pad_id: fills up shorter rows; it is never attended to.
        max_new_tokens: most tokens of an answer.
        linear_output: `has_linear_output(model)` said so: references are then measured without their logits.
        sampler: takes the next tokens; None takes the likeliest.
        stopped: new tokens of a row -> whether its answer ends with them.
    """
    longest = max(len(item.prompt_ids) for item in batch) + max(
        *(len(item.completion_ids) for item in batch), max_new_tokens
    )
    sampler = sampler or Sampler(GREEDY, range(len(batch)))
    # A window counts columns: padding between virtual tokens and prompt would push them out of it too early.
    alone = len(batch) > 1 and leaves_window(model, longest)
    found = []
    for rows in [[row] for row in range(len(batch))] if alone else [list(range(len(batch)))]:
        items = [batch[row] for row in rows]
        opened = open_batch(model, items, end_ids, pad_id, max_new_tokens, linear_output, sampler.of(rows), stopped)
        answers: list[list[int]] = [[] for _ in rows]
        for step in opened.steps:
            for row, token in step:
                answers[row].append(token)
        found += [Decoded(tokens=tokens, nll=nll) for tokens, nll in zip(answers, opened.nlls, strict=True)]
    return found


@torch.inference_mode()
def open_batch(
    model: nn.Module,
    batch: Sequence[Rendered],
    end_ids: Sequence[int],
    pad_id: int,
    max_new_tokens: int,
    linear_output: bool,
    sampler: Sampler,
    stopped: Callable[[Sequence[int]], bool] | None = None,
) -> OpenBatch:
    """Read prompts and references of a batch that no window is in the way of; the arguments are `decode_batch`'s."""
    prompt_length = max(len(item.prompt_ids) for item in batch)
    at_once = min(tokens_at_once(model), most_logits(model, linear_output))
    read = [
        _read(model, batch[part], pad_id, linear_output, sampler, part.start)
        for part in parts_of([item.length for item in batch], at_once)
    ]
    nlls = torch.cat([part.nll for part in read]).tolist()
    input_ids = torch.cat([_padded(part.input_ids, prompt_length, pad_id) for part in read])
    mask = torch.cat([part.padded_mask(prompt_length) for part in read])
    next_tokens = torch.cat([part.next_tokens for part in read])
    context = read[0].context
    if context.cache is not None:
        context = replace(context, cache=concatenate_caches([part.context.cache for part in read], max_new_tokens))
    else:
        context = context.widened(len(batch))
    steps = _new_tokens(context, input_ids, mask, next_tokens, end_ids, max_new_tokens, sampler, stopped)
    return OpenBatch(nlls=nlls, steps=steps)


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


def _read(
    model: nn.Module, batch: Sequence[Rendered], pad_id: int, linear_output: bool, sampler: Sampler, first_row: int
) -> _Reading:
    """Read prompts, padded on the left, and their references behind them.

    Args:
        first_row: of the sampler's rows.
    """
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
        next_tokens=sampler.next_tokens(behind_prompts, range(first_row, first_row + len(batch))),
        nll=torch.zeros(len(batch), device=device).index_add_(0, predicts.nonzero()[:, 0], losses),
    )


@torch.inference_mode()
def _new_tokens(
    context: Context,
    input_ids: torch.Tensor,
    mask: torch.Tensor,
    next_tokens: torch.Tensor,
    end_ids: Sequence[int],
    max_new_tokens: int,
    sampler: Sampler,
    stopped: Callable[[Sequence[int]], bool] | None,
) -> Iterator[Step]:
    """At each step the rows that have not ended, with their new tokens."""
    answers: list[list[int]] = [[] for _ in range(len(mask))]
    ends = torch.tensor(list(end_ids), device=mask.device)
    rows = list(range(len(mask)))  # which answer each row of the batch belongs to
    open_rows = torch.ones(len(mask), dtype=torch.bool, device=mask.device)
    for count in range(1, max_new_tokens + 1):
        open_rows &= ~torch.isin(next_tokens, ends)
        step = [
            (row, token)
            for row, token, is_open in zip(rows, next_tokens.tolist(), open_rows.tolist(), strict=True)
            if is_open
        ]
        for row, token in step:
            answers[row].append(token)
        if step:
            yield step
        if stopped is not None:
            said = [
                is_open and not stopped(answers[row]) for row, is_open in zip(rows, open_rows.tolist(), strict=True)
            ]
            open_rows = torch.tensor(said, device=mask.device)
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
        next_tokens = sampler.next_tokens(output.logits[:, -1], rows)
