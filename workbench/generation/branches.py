"""Several continuations of one prompt in one row: each sees the prompt and itself, and none of the others."""

from dataclasses import replace

import torch
from torch import nn

from workbench.generation.context import Context, open_context

# Tokens of continuations in a row: more would attend in vain to each other, fewer copy the prompt's cache more often.
ROW_TOKENS = 2**8
# Where a text config says how far a layer looks back; a mask made here would know nothing of it.
WINDOWS = ("sliding_window", "window_size", "attention_chunk_size")
# Largest difference of logits, by the largest, between continuations together and alone.
TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-4}
TOLERANCE = 0.05


def branch_mask(before: torch.Tensor, owners: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The mask under which continuations share a row: 0 where one may look, the lowest number elsewhere.

    Args:
        before: (rows, cached), 1 on what was read before and is seen by all.
        owners: (rows, length), the continuation that a token belongs to; -1 on padding, which sees itself only.
        dtype: the model's.

    Returns:
        (rows, 1, length, cached + length).
    """
    rows, length = owners.shape
    own = owners[:, :, None] == owners[:, None, :]
    padding = (owners < 0)[:, :, None]
    seen = own.tril() & ~padding | torch.eye(length, dtype=torch.bool, device=owners.device)
    whole = torch.cat([(before > 0)[:, None, :].expand(-1, length, -1) & ~padding, seen], dim=2)
    mask = torch.zeros(rows, 1, length, whole.shape[2], dtype=dtype, device=owners.device)
    return mask.masked_fill(~whole[:, None], torch.finfo(dtype).min)


def inside_window(model: nn.Module, columns: int) -> bool:
    """Whether every layer looks back so far."""
    config = model.config.get_text_config()  # type: ignore[union-attr,operator]
    return not any(0 < (getattr(config, name, None) or 0) < columns for name in WINDOWS)


@torch.inference_mode()
def reads_branches(model: nn.Module) -> bool:
    """Whether `model` keeps to such a mask and to given positions: two continuations are read together and alone."""
    embedding = model.get_input_embeddings().weight  # type: ignore[operator]
    prompt = torch.arange(1, 5, device=embedding.device)[None]
    together = torch.arange(5, 10, device=embedding.device)[None]  # two tokens of one, three of the other
    owners = torch.tensor([[0, 0, 1, 1, 1]], device=embedding.device)

    def tuned() -> tuple[Context, torch.Tensor]:
        context = open_context(model, 1)
        before = torch.ones(1, context.virtual_tokens + prompt.shape[1], dtype=torch.long, device=embedding.device)
        return replace(context, cache=context.read(prompt, before).past_key_values), before

    if open_context(model, 1).cache is None:
        return False
    context, before = tuned()
    positions = before.shape[1] + torch.tensor([[0, 1, 0, 1, 2]], device=embedding.device)
    found = context.read(together, branch_mask(before, owners, embedding.dtype), positions).logits[0].float()
    alone = []
    for part in (slice(0, 2), slice(2, 5)):
        context, before = tuned()
        ids = together[:, part]
        alone.append(context.read(ids, torch.cat([before, torch.ones_like(ids)], dim=1)).logits[0].float())
    expected = torch.cat(alone)
    tolerance = TOLERANCES.get(embedding.dtype, TOLERANCE)
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())
