"""How likely a model finds each choice behind a prompt; the prompt is read once for all of them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from workbench.generation.branches import ROW_TOKENS, branch_mask, inside_window
from workbench.generation.context import (
    CACHE_BYTES,
    Context,
    cache_bytes,
    leaves_window,
    most_logits,
    open_context,
    parts_of,
    tokens_at_once,
)
from workbench.models import linear_cross_entropy, output_of, output_weight


@torch.inference_mode()
def choice_nlls(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    choices: Sequence[Sequence[Sequence[int]]],
    pad_id: int,
    linear_output: bool = False,
    branching: bool = False,
) -> list[list[float]]:
    """Negative log-likelihoods of choices given their prompts, in nats.

    Args:
        model: causal language model, with or without an adapter, in evaluation mode.
        prompts: token ids.
        choices: of each prompt, the token ids of its choices; none is empty.
        pad_id: fills up shorter rows; it is never attended to.
        linear_output: `has_linear_output(model)` said so: likelihoods are then measured without logits in memory.
        branching: `reads_branches(model)` said so: the choices of a prompt are then read in one row, as far as no
            window is in the way.

    Returns:
        Of each prompt, a number for each of its choices.
    """
    longest = max(map(len, prompts))
    behind = max(len(ids) for given in choices for ids in given)
    # A window counts columns: padding between virtual tokens and prompt would push them out of it too early.
    alone = len(prompts) > 1 and leaves_window(model, longest + behind)
    nll: list[list[float]] = []
    for part in parts_of(list(map(len, prompts)), 1 if alone else tokens_at_once(model)):
        read = _read(model, prompts[part], pad_id)
        nll += _behind(model, read, choices[part], pad_id, linear_output, branching)
    return nll


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
    device = output_weight(model).device
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (longest - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor(
        [[1] * context.virtual_tokens + [0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device
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
    linear_output: bool,
    branching: bool,
) -> list[list[float]]:
    """The nats of `choices` behind the prompts that were read."""
    flat = [(prompt, ids) for prompt, given in enumerate(choices) for ids in given]
    prompts = torch.tensor([prompt for prompt, _ in flat], device=read.mask.device)
    firsts = torch.tensor([ids[0] for _, ids in flat], device=read.mask.device)
    nll = -read.next_log_probabilities[prompts, firsts]
    for rows in _parts(model, read, _rows(model, read, flat, branching), linear_output):
        owners, losses = _rest(model, read, rows, pad_id, linear_output)
        nll.index_add_(0, owners, losses)
    values = iter(nll.tolist())
    return [[next(values) for _ in given] for given in choices]


@dataclass(frozen=True)
class _Row:
    """Choices that are read behind one prompt, one after the other, without seeing each other.

    Attributes:
        prompt: index among the prompts that were read.
        choices: (index of the choice, its token ids).
    """

    prompt: int
    choices: Sequence[tuple[int, Sequence[int]]]

    @property
    def length(self) -> int:
        """Tokens that are read: all but the last of each choice, which predicts nothing."""
        return sum(len(ids) - 1 for _, ids in self.choices)


def _rows(model: nn.Module, read: _Prompts, flat: Sequence[tuple[int, Sequence[int]]], branching: bool) -> list[_Row]:
    """What is to be read of choices, given as (index of the prompt, token ids)."""
    longest = max(len(ids) - 1 for _, ids in flat)
    width = max(longest, min(ROW_TOKENS, tokens_at_once(model)))
    branching = branching and inside_window(model, read.mask.shape[1] + width)
    rows: list[_Row] = []
    open_row: list[tuple[int, Sequence[int]]] = []
    last, taken = -1, 0
    for number, (prompt, ids) in enumerate(flat):
        if len(ids) == 1:
            continue
        if not branching or prompt != last or taken + len(ids) - 1 > width:
            open_row, taken = [], 0
            rows.append(_Row(prompt, open_row))
        open_row.append((number, ids))
        last, taken = prompt, taken + len(ids) - 1
    return rows


def _parts(model: nn.Module, read: _Prompts, rows: list[_Row], linear_output: bool) -> Iterator[list[_Row]]:
    """Rows, like ones together, so many that their tokens and copied caches fit."""
    rows = sorted(rows, key=lambda row: -row.length)
    logits = most_logits(model, linear_output)
    while rows:
        length = rows[0].length
        row_bytes = cache_bytes(model) * (read.mask.shape[1] + length)
        whole = length if read.context.cache is not None else length + read.mask.shape[1]
        together = max(1, min(tokens_at_once(model) // whole, CACHE_BYTES // row_bytes, logits // length))
        yield rows[:together]
        rows = rows[together:]


def _rest(
    model: nn.Module, read: _Prompts, rows: Sequence[_Row], pad_id: int, linear_output: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """All tokens but the first of the choices in `rows`: (index of the choice, nats), each (tokens,)."""
    device = read.mask.device
    longest = max(row.length for row in rows)

    def filled(values: Iterable[list[int]], fill: int) -> torch.Tensor:
        return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in values], device=device)

    ids = filled(([token for _, tokens in row.choices for token in tokens[:-1]] for row in rows), pad_id)
    owners = filled(([number for number, tokens in row.choices for _ in tokens[1:]] for row in rows), -1)
    targets = torch.tensor([token for row in rows for _, tokens in row.choices for token in tokens[1:]], device=device)
    prompts = torch.tensor([row.prompt for row in rows], device=device)
    predicts = owners >= 0
    before = read.mask[prompts]
    mask = torch.cat([before, predicts.to(before.dtype)], dim=1)
    positions = None
    if any(len(row.choices) > 1 for row in rows):
        begun = filled(([index for _, tokens in row.choices for index in range(len(tokens) - 1)] for row in rows), 0)
        positions = before.sum(dim=1, keepdim=True) + begun
        mask = branch_mask(before, owners, model.get_input_embeddings().weight.dtype)  # type: ignore[operator]
    if read.context.cache is not None:
        context = read.context.selected(prompts)
    else:
        context = read.context.widened(len(rows))
        ids = torch.cat([read.input_ids[prompts], ids], dim=1)
    with output_of(model, lambda hidden: hidden[:, -longest:][predicts], hidden=linear_output):
        output = context.read(ids, mask, positions)
    if linear_output:
        losses = linear_cross_entropy(output.logits, output_weight(model), targets)
    else:
        losses = nn.functional.cross_entropy(output.logits.float(), targets, reduction="none")
    return owners[predicts], losses
