"""Prompts are read, in parts of like length and what all of them begin with only once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from workbench.generation.branches import inside_window
from workbench.generation.cache import PromptCache
from workbench.generation.context import Context, open_context, parts_of, tokens_at_once
from workbench.models import output_of, output_weight


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Prompts that were read.

    Attributes:
        context: what to read on with; its cache is left out.
        cache: keys and values of the prompts; None for a model that keeps none.
        input_ids: (rows, length), without what is shared, padded on the left.
        mask: (rows, columns): virtual tokens and what is shared, then padding, then the rest.
        logprobs: of the tokens that were asked for behind each prompt, in nats.
    """

    context: Context
    cache: PromptCache | None
    input_ids: torch.Tensor
    mask: torch.Tensor
    logprobs: Sequence[np.ndarray]

    @property
    def columns(self) -> int:
        """Of the longest prompt."""
        return self.mask.shape[1]


def read_prompts(
    model: nn.Module, prompts: Sequence[Sequence[int]], asked: Sequence[np.ndarray], pad_id: int
) -> Prompts:
    """Read prompts.

    Args:
        prompts: token ids.
        asked: of each prompt, the tokens whose log-probabilities behind it are wanted.
        pad_id: fills up shorter rows; it is never attended to.
    """
    device = output_weight(model).device
    with output_of(model, lambda hidden: hidden[:, -1:], hidden=False):
        first, shared = read_beginning(model, prompts)
    front = first.virtual_tokens + len(shared)
    rests = [list(prompt[len(shared) :]) for prompt in prompts]
    length = max(map(len, rests))
    input_ids = torch.tensor([[pad_id] * (length - len(rest)) + rest for rest in rests], device=device)
    mask = torch.tensor([[1] * front + [0] * (length - len(rest)) + [1] * len(rest) for rest in rests], device=device)
    caches = []
    logprobs: list[np.ndarray] = []
    for part in parts_of(list(map(len, rests)), tokens_at_once(model)):
        some = rests[part]
        padding = length - max(map(len, some))
        if shared:
            context = first.selected(torch.zeros(len(some), dtype=torch.long, device=device))
        else:
            context = open_context(model, len(some))
        own = torch.cat([mask[part, :front], mask[part, front + padding :]], dim=1)
        with output_of(model, lambda hidden: hidden[:, -1:], hidden=False):
            output = context.read(input_ids[part, padding:], own)
        if first.cache is not None:
            caches.append(output.past_key_values)
        for tokens, found in zip(asked[part], torch.log_softmax(output.logits[:, -1].float(), dim=-1), strict=True):
            logprobs.append(found[torch.from_numpy(tokens).to(device)].cpu().numpy().astype(float))
    return Prompts(
        context=replace(first, cache=None),
        cache=PromptCache.joined(caches, front, front + length) if caches else None,
        input_ids=input_ids,
        mask=mask,
        logprobs=logprobs,
    )


def shared_beginning(prompts: Sequence[Sequence[int]]) -> Sequence[int]:
    """What all of several prompts begin with; the last token of none is among it."""
    if len(prompts) < 2:
        return []
    low, high = min(map(list, prompts)), max(map(list, prompts))
    most = min(map(len, prompts)) - 1
    return low[: next((place for place in range(most) if low[place] != high[place]), most)]


def read_beginning(model: nn.Module, prompts: Sequence[Sequence[int]]) -> tuple[Context, Sequence[int]]:
    """A context of one row, its cache holding what all prompts begin with; and that, which may be nothing."""
    context = open_context(model, 1)
    # A window counts columns: what is shared would leave it earlier, with padding between it and the rest.
    shares = context.cache is not None and inside_window(model, context.virtual_tokens + max(map(len, prompts)))
    shared = list(shared_beginning(prompts)) if shares else []
    if not shared:
        return context, shared
    ids = torch.tensor([shared], device=next(model.parameters()).device)
    mask = ids.new_ones(1, context.virtual_tokens + len(shared))
    return replace(context, cache=context.read(ids, mask).past_key_values), shared
