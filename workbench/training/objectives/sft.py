"""Supervised fine-tuning: the negative log-likelihood of the completions, per token."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from workbench.data.render import Rendered
from workbench.training.loss import (
    IGNORED,
    RightPadding,
    completion_losses,
    mean_completion_loss,
    negative_log_likelihoods,
)
from workbench.training.objectives.objective import Objective
from workbench.training.rows import COLUMNS, count_labels, pack_turns


def _predicted_tokens(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    # Nothing stands before the first token, from which it could be predicted.
    return (batch["labels"][:, 1:] != IGNORED).sum()


def _loss(model: nn.Module, batch: Mapping[str, torch.Tensor], linear_output: bool) -> torch.Tensor:
    losses, _ = negative_log_likelihoods(
        model, batch["input_ids"], batch["attention_mask"], batch["labels"], linear_output
    )
    return losses.sum()


def _plain_losses(model: nn.Module, rendered: Sequence[Rendered]) -> torch.Tensor:
    return torch.cat(completion_losses(model, rendered))


OBJECTIVES = (
    Objective(
        name="sft",
        summary="negative log-likelihood of the completions' tokens given their prompts, in nats",
        columns=COLUMNS,
        rows=pack_turns,
        collator=RightPadding,
        items=_predicted_tokens,
        total_items=count_labels,
        loss=_loss,
        checked_loss=mean_completion_loss,
        plain_losses=_plain_losses,
        reads_once=True,
    ),
)
