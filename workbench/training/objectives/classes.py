"""A head of classes: the cross-entropy of the right class among those of its task, per text.

Where a text may have several classes at once, it is the sum of the binary cross-entropies of each. It is made for the
classes that a recipe has, and so stands in no list: a recipe asks for it by `head="classes"`.
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
    "right": pyarrow.list_(pyarrow.int32()),
    "first": pyarrow.int32(),
    "count": pyarrow.int32(),
    "length": pyarrow.int32(),
}


def classes(labels: Labels) -> Objective:
    """The objective that trains a head of `labels`.

    Its rows hold the prompt, exactly as an answer to it would be generated, the `right` rows of the head, and the rows
    of its task, `count` of them from `first` on.
    """
    return Objective(
        name="classes",
        summary="cross-entropy of the right class among those of its task, in nats per text",
        columns=COLUMNS,
        examples=_with_classes,
        rows=partial(_rows, labels),
        collator=partial(_Collator, len(labels.names)),
        items=_texts,
        total_items=len,
        loss=_loss_of_several if labels.several else _loss,
        checked_loss=partial(_mean_loss, labels),
        plain_losses=partial(_plain_losses, labels),
        reads_once=True,
    )


def _with_classes(pairs: "Pairs") -> "Pairs":
    return pairs


def _texts(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return torch.tensor(len(batch["right"]))


def _rows(labels: Labels, pairs: "Iterable[tuple[Example, Rendered]]") -> Iterator[dict[str, Any]]:
    for example, rendered in pairs:
        right = example.labels if labels.several else (example.completion,) if example.completion else None
        if right is None:
            raise MethodError(f"examples without a class: {example.id}")
        yield {
            "input_ids": rendered.prompt_ids,
            "right": labels.rows(example.task, right),
            "first": labels.first(example.task),
            "count": len(labels.tasks[example.task]),
            "length": len(rendered.prompt_ids),
        }


@dataclass(frozen=True)
class _Collator:
    """Texts padded on the right to (batch, length), the length a multiple of `multiple`.

    Which rows of the head are right, and which are asked for, is (batch, classes).
    """

    classes: int
    pad_id: int
    multiple: int = 1

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate rows of `classes`."""
        texts = RightPadding(self.pad_id, self.multiple)([{**row, "labels": ()} for row in rows])
        right = torch.zeros(len(rows), self.classes, dtype=torch.bool)
        asked = torch.zeros_like(right)
        for number, row in enumerate(rows):
            right[number, list(row["right"])] = True
            asked[number, row["first"] : row["first"] + row["count"]] = True
        return {
            "input_ids": texts["input_ids"],
            "attention_mask": texts["attention_mask"],
            "right": right,
            "asked": asked,
        }


def _loss(model: nn.Module, batch: Mapping[str, torch.Tensor], linear_output: bool) -> torch.Tensor:
    logits = class_logits(model, batch["input_ids"], batch["attention_mask"])
    of_task = logits.masked_fill(~batch["asked"], -torch.inf)
    return -torch.log_softmax(of_task, dim=-1)[batch["right"]].sum()


def _loss_of_several(model: nn.Module, batch: Mapping[str, torch.Tensor], linear_output: bool) -> torch.Tensor:
    logits = class_logits(model, batch["input_ids"], batch["attention_mask"])
    asked = batch["asked"]
    return nn.functional.binary_cross_entropy_with_logits(logits[asked], batch["right"][asked].float(), reduction="sum")


def _plain_losses(labels: Labels, model: nn.Module, pairs: "Sequence[tuple[Example, Rendered]]") -> torch.Tensor:
    """Cross-entropy of each text, (texts,), as the model itself reads the end of it."""
    place = next(model.parameters()).device
    found = []
    for example, rendered in pairs:
        logits = model(input_ids=torch.tensor([rendered.prompt_ids], device=place)).logits[0].float()
        first = labels.first(example.task)
        of_task = logits[first : first + len(labels.tasks[example.task])]
        right = example.labels if labels.several else (example.completion,)
        assert right is not None
        rows = [row - first for row in labels.rows(example.task, right)]
        chosen = torch.zeros_like(of_task)
        chosen[rows] = 1
        if labels.several:
            found.append(nn.functional.binary_cross_entropy_with_logits(of_task, chosen, reduction="sum"))
        else:
            found.append(-(torch.log_softmax(of_task, dim=-1) * chosen).sum())
    return torch.stack(found)


@torch.no_grad()
def _mean_loss(
    labels: Labels, model: nn.Module, pairs: "Sequence[tuple[Example, Rendered]]", pad_id: int, batch_size: int
) -> float:
    """Cross-entropy of the right classes, in nats per text; `model` is in evaluation mode."""
    device = next(model.parameters()).device
    rows = sorted(_rows(labels, pairs), key=lambda row: row["length"])
    loss, total = _loss_of_several if labels.several else _loss, 0.0
    for start in range(0, len(rows), batch_size):
        batch = _Collator(len(labels.names), pad_id)(rows[start : start + batch_size])
        total += float(loss(model, {name: tensor.to(device) for name, tensor in batch.items()}, False))
    return total / len(rows)
