"""How likely a model finds each choice behind a prompt; the prompt is read once for all of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from workbench.evaluation.decode import (
    CACHE_BYTES,
    LOGIT_BYTES,
    MOST_TOKENS,
    Context,
    cache_bytes,
    leaves_window,
    open_context,
    tokens_at_once,
)
from workbench.models import linear_cross_entropy, output_of, output_weight


@torch.inference_mode()
def choice_nats(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    choices: Sequence[Sequence[Sequence[int]]],
    pad_id: int,
    plain_output: bool = False,
) -> list[list[float]]:
    """Negative log-likelihoods of choices given their prompts, in nats.

    Args:
        model: causal language model, with or without an adapter, in evaluation mode.
        prompts: token ids.
        choices: of each prompt, the token ids of its choices; none is empty.
        pad_id: fills up shorter rows; it is never attended to.
        plain_output: `has_plain_output(model)` said so: likelihoods are then measured without logits in memory.

    Returns:
        Of each prompt, a number for each of its choices.
    """
    longest = max(map(len, prompts))
    behind = max(len(ids) for given in choices for ids in given)
    # A window counts columns: padding between virtual tokens and prompt would push them out of it too early.
    alone = len(prompts) > 1 and leaves_window(model, longest + behind)
    together = 1 if alone else max(1, tokens_at_once(model) // longest)
    nats: list[list[float]] = []
    for start in range(0, len(prompts), together):
        part = slice(start, start + together)
        read = _read(model, prompts[part], pad_id)
        nats += _behind(model, read, choices[part], pad_id, plain_output)
    return nats


@dataclass(frozen=True)
class _Prompts:
    """Prompts that were read.

    Attributes:
        input_ids: (rows, length), padded on the left.
        mask: (rows, virtual tokens + length).
        next_log_probabilities: of the token behind each prompt, (rows, vocabulary).
    """

    context: Context
    input_ids: torch.Tensor
    mask: torch.Tensor
    next_log_probabilities: torch.Tensor


def _read(model: nn.Module, prompts: Sequence[Sequence[int]], pad_id: int) -> _Prompts:
    context = open_context(model, len(prompts))
    place = output_weight(model).device
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (longest - len(p)) + list(p) for p in prompts], device=place)
    mask = torch.tensor(
        [[1] * context.virtual_tokens + [0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=place
    )
    with output_of(model, lambda hidden: hidden[:, -1:], hidden=False):
        output = context.read(ids, mask)
    if context.cache is not None:
        context = replace(context, cache=output.past_key_values)
    return _Prompts(context, ids, mask, torch.log_softmax(output.logits[:, -1].float(), dim=-1))


def _behind(
    model: nn.Module,
    read: _Prompts,
    choices: Sequence[Sequence[Sequence[int]]],
    pad_id: int,
    plain_output: bool,
) -> list[list[float]]:
    """The nats of `choices` behind the prompts that were read."""
    flat = [(row, ids) for row, given in enumerate(choices) for ids in given]
    rows = torch.tensor([row for row, _ in flat], device=read.mask.device)
    firsts = torch.tensor([ids[0] for _, ids in flat], device=read.mask.device)
    nats = -read.next_log_probabilities[rows, firsts]
    longer = [number for number, (_, ids) in enumerate(flat) if len(ids) > 1]
    for part in _parts(model, read, [len(flat[number][1]) - 1 for number in longer], plain_output):
        numbers = [longer[index] for index in part]
        found = _rest(model, read, [flat[number] for number in numbers], pad_id, plain_output)
        nats[torch.tensor(numbers, device=nats.device)] += found
    values = iter(nats.tolist())
    return [[next(values) for _ in given] for given in choices]


def _parts(model: nn.Module, read: _Prompts, lengths: Sequence[int], plain_output: bool) -> Iterator[list[int]]:
    """Indices of `lengths`, like ones together, so many that their tokens and copied caches fit."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    row_bytes = cache_bytes(model) * (read.mask.shape[1] + max(lengths, default=0))
    # Positions whose logits fit; where the output is plain, they are never in memory together.
    logits = MOST_TOKENS if plain_output else LOGIT_BYTES // (4 * len(output_weight(model)))
    while order:
        length = lengths[order[0]]
        whole = length if read.context.cache is not None else length + read.mask.shape[1]
        together = max(1, min(tokens_at_once(model) // whole, CACHE_BYTES // row_bytes, logits // length))
        yield order[:together]
        order = order[together:]


def _rest(
    model: nn.Module,
    read: _Prompts,
    flat: Sequence[tuple[int, Sequence[int]]],
    pad_id: int,
    plain_output: bool,
) -> torch.Tensor:
    """The nats of all tokens but the first, (choices,), of choices as (row of the prompt, token ids)."""
    place = read.mask.device
    longest = max(len(ids) for _, ids in flat) - 1
    rows = torch.tensor([row for row, _ in flat], device=place)
    fill = [[pad_id] * (longest - len(ids) + 1) for _, ids in flat]
    ids = torch.tensor([[*ids[:-1], *pad] for (_, ids), pad in zip(flat, fill, strict=True)], device=place)
    targets = torch.tensor([token for _, ids in flat for token in ids[1:]], device=place)
    predicts = torch.tensor([[True] * (len(ids) - 1) + [False] * (longest - len(ids) + 1) for _, ids in flat])
    predicts = predicts.to(place)
    mask = torch.cat([read.mask[rows], predicts.to(read.mask.dtype)], dim=1)
    if read.context.cache is not None:
        context = read.context.selected(rows)
    else:
        context = read.context.widened(len(flat))
        ids = torch.cat([read.input_ids[rows], ids], dim=1)
    with output_of(model, lambda hidden: hidden[:, -longest:][predicts], hidden=plain_output):
        output = context.read(ids, mask)
    if plain_output:
        losses = linear_cross_entropy(output.logits, output_weight(model), targets)
    else:
        losses = nn.functional.cross_entropy(output.logits.float(), targets, reduction="none")
    return torch.zeros(len(flat), device=place).index_add_(0, predicts.nonzero()[:, 0], losses)
