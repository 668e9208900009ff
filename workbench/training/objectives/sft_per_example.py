"""Supervised fine-tuning in which every example counts the same, however long its answer.

Per token, an answer of fifty tokens weighs as much as ten labels of five: a model that is to learn both, to choose and
to write, learns to choose late.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from workbench.data.render import Rendered
from workbench.errors import MethodError
from workbench.models import has_linear_output
from workbench.training.loss import (
    RightPadding,
    batches_of_like_length,
    completion_losses,
    labelled,
    negative_log_likelihoods,
)
from workbench.training.objectives.objective import Objective
from workbench.training.rows import COLUMNS


def _rows(examples: Iterable[Rendered]) -> Iterator[dict[str, Any]]:
    """One of each example: turns of a conversation that stood in one row would count as one.

    Raises:
        MethodError: an example has no answer.
    """
    for example in examples:
        if not example.completion_ids:
            raise MethodError(f"an example without a trained token: {example.id}")
        yield labelled(example)


def _examples(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return torch.tensor(len(batch["labels"]), device=batch["labels"].device)


def _loss(model: nn.Module, batch: Mapping[str, torch.Tensor], linear_output: bool) -> torch.Tensor:
    """Sum over examples of the mean over an example's tokens."""
    losses, rows = negative_log_likelihoods(
        model, batch["input_ids"], batch["attention_mask"], batch["labels"], linear_output
    )
    tokens = torch.bincount(rows, minlength=len(batch["labels"]))
    return (losses / tokens[rows]).sum()


@torch.no_grad()
def _checked_loss(model: nn.Module, rendered: Sequence[Rendered], pad_id: int, batch_size: int) -> float:
    """Mean over examples, of a model in evaluation mode."""
    linear_output = has_linear_output(model)
    batches = batches_of_like_length(model, rendered, pad_id, batch_size)
    return sum(float(_loss(model, batch, linear_output)) for batch in batches) / len(rendered)


def _plain_losses(model: nn.Module, rendered: Sequence[Rendered]) -> torch.Tensor:
    return torch.stack([losses.mean() for losses in completion_losses(model, rendered)])


OBJECTIVES = (
    Objective(
        name="sft_per_example",
        summary="the same, each example counting as one, however many tokens its completion has",
        columns=COLUMNS,
        rows=_rows,
        collator=RightPadding,
        items=_examples,
        total_items=len,
        loss=_loss,
        checked_loss=_checked_loss,
        plain_losses=_plain_losses,
        reads_once=True,
    ),
)
