"""An objective over pairs of answers, as somebody would add it: which of the two is likelier, per token."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow
import torch
from torch import nn

from workbench.data.render import Rendered
from workbench.training.loss import RightPadding, labelled, mean_completion_loss, negative_log_likelihoods
from workbench.training.objectives import Objective

SIDES = ("chosen", "rejected")
PARTS = ("input_ids", "attention_mask", "labels")


def pair_up(examples: Iterable[Rendered]) -> Iterator[dict[str, Any]]:
    """Each example's answer, preferred to that of the example before it."""
    before: Rendered | None = None
    for example in examples:
        if before is not None:
            other = Rendered(
                id=example.id, text="", prompt_ids=example.prompt_ids, completion_ids=before.completion_ids
            )
            row: dict[str, Any] = {"length": example.length + other.length}
            for side, item in zip(SIDES, (example, other), strict=True):
                row |= {f"{side}_{name}": labelled(item)[name] for name in ("input_ids", "labels")}
            yield row
        before = example


@dataclass(frozen=True)
class PairCollator:
    """Both sides of each row, padded: tensors of shape (rows, length)."""

    pad_id: int
    multiple: int = 1

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Pad each side to its own longest text."""
        pad, batch = RightPadding(self.pad_id, self.multiple), {}
        for side in SIDES:
            padded = pad([{name: row[f"{side}_{name}"] for name in ("input_ids", "labels")} for row in rows])
            batch |= {f"{side}_{name}": padded[name] for name in PARTS}
        return batch


def scores(model: nn.Module, batch: Mapping[str, torch.Tensor], side: str, linear_output: bool) -> torch.Tensor:
    """Mean log-likelihood of each row's tokens, (rows,)."""
    ids, mask, labels = (batch[f"{side}_{name}"] for name in PARTS)
    losses, row_of = negative_log_likelihoods(model, ids, mask, labels, linear_output)
    total = torch.zeros(len(ids)).index_add(0, row_of, losses)
    return -total / torch.bincount(row_of, minlength=len(ids))


def loss(model: nn.Module, batch: Mapping[str, torch.Tensor], linear_output: bool) -> torch.Tensor:
    """Bradley-Terry: negative log-probability that the chosen answer is the better one."""
    chosen, rejected = (scores(model, batch, side, linear_output) for side in SIDES)
    return -nn.functional.logsigmoid(chosen - rejected).sum()


OBJECTIVES = (
    Objective(
        name="pairwise",
        summary="the chosen answer is likelier than the rejected one",
        columns={
            **{f"{side}_{name}": pyarrow.list_(pyarrow.int32()) for side in SIDES for name in ("input_ids", "labels")},
            "length": pyarrow.int32(),
        },
        rows=pair_up,
        collator=PairCollator,
        items=lambda batch: torch.tensor(len(batch["chosen_labels"])),
        total_items=len,
        loss=loss,
        checked_loss=mean_completion_loss,
    ),
)
