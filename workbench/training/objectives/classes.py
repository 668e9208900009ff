"""A head of classes: the cross-entropy of the right class among those of its task, per text.

It is made for the classes that a recipe has, and so stands in no list: a recipe asks for it by `head="classes"`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow
import torch
from torch import nn

from workbench.data.labels import Labels
from workbench.errors import MethodError
from workbench.models import class_logits
from workbench.training.loss import RightPadding
from workbench.training.objectives.objective import Objective

if TYPE_CHECKING:
    from workbench.data import Example
    from workbench.data.pairs import Pairs, Rendered

COLUMNS = {
    "input_ids": pyarrow.list_(pyarrow.int32()),
    "label": pyarrow.int32(),
    "first": pyarrow.int32(),
    "count": pyarrow.int32(),
    "length": pyarrow.int32(),
}


def classes(labels: Labels) -> Objective:
    """The objective that trains a head of `labels`.

    Its rows hold the prompt, exactly as an answer to it would be generated, the right row of the head (`label`), and
    the rows of its task, `count` of them from `first` on.
    """
    return Objective(
        name="classes",
        summary="cross-entropy of the right class among those of its task, in nats per text",
        columns=COLUMNS,
        examples=_with_classes,
        rows=partial(_rows, labels),
        collator=_Collator,
        items=_texts,
        total_items=len,
        loss=_loss,
        checked_loss=partial(_mean_loss, labels),
    )


def _with_classes(pairs: "Pairs") -> "Pairs":
    return pairs


def _texts(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return torch.tensor(len(batch["label"]))


def _rows(labels: Labels, pairs: "Iterable[tuple[Example, Rendered]]") -> Iterator[dict[str, Any]]:
    for example, rendered in pairs:
        if not example.completion:
            raise MethodError(f"examples without a class: {example.id}")
        (label,) = labels.rows(example.task, [example.completion])
        yield {
            "input_ids": rendered.prompt_ids,
            "label": label,
            "first": labels.first(example.task),
            "count": len(labels.tasks[example.task]),
            "length": len(rendered.prompt_ids),
        }


@dataclass(frozen=True)
class _Collator:
    """Texts padded on the right to (batch, length), the length a multiple of `multiple`; numbers as (batch,)."""

    pad_id: int
    multiple: int = 1

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate rows of `classes`."""
        texts = RightPadding(self.pad_id, self.multiple)([{**row, "labels": ()} for row in rows])
        numbers = {name: torch.tensor([row[name] for row in rows]) for name in ("label", "first", "count")}
        return {"input_ids": texts["input_ids"], "attention_mask": texts["attention_mask"], **numbers}


def _loss(model: nn.Module, batch: Mapping[str, torch.Tensor], linear_output: bool) -> torch.Tensor:
    logits = class_logits(model, batch["input_ids"], batch["attention_mask"])
    rows = torch.arange(logits.shape[1], device=logits.device)[None]
    first, behind = batch["first"][:, None], (batch["first"] + batch["count"])[:, None]
    of_task = logits.masked_fill((rows < first) | (rows >= behind), -torch.inf)
    return nn.functional.cross_entropy(of_task, batch["label"], reduction="sum")


@torch.no_grad()
def _mean_loss(
    labels: Labels, model: nn.Module, pairs: "Sequence[tuple[Example, Rendered]]", pad_id: int, batch_size: int
) -> float:
    """Cross-entropy of the right classes, in nats per text; `model` is in evaluation mode."""
    device = next(model.parameters()).device
    rows = sorted(_rows(labels, pairs), key=lambda row: row["length"])
    total = 0.0
    for start in range(0, len(rows), batch_size):
        batch = _Collator(pad_id)(rows[start : start + batch_size])
        total += float(_loss(model, {name: tensor.to(device) for name, tensor in batch.items()}, False))
    return total / len(rows)
