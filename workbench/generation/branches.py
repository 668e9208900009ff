"""A tree of continuations of one prompt in one row: each token sees the prompt, what leads to it, and itself."""

from dataclasses import replace

import torch
from torch import nn

from workbench.generation.context import Context, open_context

# Tokens of continuations in a row: more would attend in vain to each other, fewer copy the prompt's cache more often.
ROW_TOKENS = 2**8
# The number that stands for padding among nodes.
PADDING = -1
# Where a text config says how far a layer looks back; a mask made here would know nothing of it.
WINDOWS = ("sliding_window", "window_size", "attention_chunk_size")
# Largest difference of logits, by the largest, between continuations together and alone.
TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-4}
TOLERANCE = 0.05


def tree_mask(
    before: torch.Tensor, seen: torch.Tensor, ends: torch.Tensor, nodes: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """The mask under which the nodes of a tree share a row: 0 where one may look, the lowest number elsewhere.

    Nodes are numbered depth first, see `ChoiceTree`.

    Args:
        before: (rows, cached), 1 on what was read before and is seen by all.
        seen: (rows, columns), the nodes in all columns behind that, the rows' own last; `PADDING` elsewhere.
        ends: (rows, columns), of each of these nodes, the number behind the last one below it.
        nodes: (rows, length), the rows' own; `PADDING` sees itself only.
        dtype: the model's.

    Returns:
        (rows, 1, length, cached + columns).
    """
    rows, length = nodes.shape
    looking = nodes[:, :, None]
    padding = looking < 0
    above = (seen[:, None, :] >= 0) & (looking >= seen[:, None, :]) & (looking < ends[:, None, :])
    itself = torch.eye(length, dtype=torch.bool, device=nodes.device)
    above[:, :, seen.shape[1] - length :] |= itself & padding
    whole = torch.cat([(before > 0)[:, None, :].expand(-1, length, -1) & ~padding, above], dim=2)
    mask = torch.zeros(rows, 1, length, whole.shape[2], dtype=dtype, device=nodes.device)
    return mask.masked_fill(~whole[:, None], torch.finfo(dtype).min)


def inside_window(model: nn.Module, columns: int) -> bool:
    """Whether every layer looks back so far."""
    config = model.config.get_text_config()  # type: ignore[union-attr,operator]
    return not any(0 < (getattr(config, name, None) or 0) < columns for name in WINDOWS)


@torch.inference_mode()
def reads_branches(model: nn.Module) -> bool:
    """Whether `model` keeps to such a mask and to given positions.

    Two continuations that begin alike are read together, in two parts, and alone.
    """
    embedding = model.get_input_embeddings().weight  # type: ignore[operator]
    device = embedding.device
    prompt = torch.arange(1, 5, device=device)[None]

    def tuned() -> tuple[Context, torch.Tensor]:
        context = open_context(model, 1)
        before = torch.ones(1, context.virtual_tokens + prompt.shape[1], dtype=torch.long, device=device)
        return replace(context, cache=context.read(prompt, before).past_key_values), before

    if open_context(model, 1).cache is None:
        return False
    # 1 above 2 and 3, 3 above 4; the third column of the first part is padding.
    tokens = torch.tensor([[5, 6, 9, 7, 8]], device=device)
    nodes = torch.tensor([[1, 2, PADDING, 3, 4]], device=device)
    ends = torch.tensor([[5, 3, 0, 5, 5]], device=device)
    depths = torch.tensor([[0, 1, 0, 1, 2]], device=device)
    context, before = tuned()
    found = []
    for part in (slice(0, 3), slice(3, 5)):
        mask = tree_mask(before, nodes[:, : part.stop], ends[:, : part.stop], nodes[:, part], embedding.dtype)
        output = context.read(tokens[:, part], mask, before.shape[1] + depths[:, part])
        context = replace(context, cache=output.past_key_values)
        found.append(output.logits[0].float())
    together = torch.cat(found)[[0, 1, 0, 3, 4]]
    alone = []
    for ids in ([5, 6], [5, 7, 8]):
        context, before = tuned()
        row = torch.tensor([ids], device=device)
        alone.append(context.read(row, torch.cat([before, torch.ones_like(row)], dim=1)).logits[0].float())
    expected = torch.cat(alone)
    tolerance = TOLERANCES.get(embedding.dtype, TOLERANCE)
    return bool((together - expected).abs().max() <= tolerance * expected.abs().max())
