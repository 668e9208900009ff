"""What an objective is."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow
    import torch
    from datasets import Dataset
    from torch import nn

    from workbench.data.pairs import Pairs, Rendered

    Batch = Mapping[str, torch.Tensor]


def rendered_of(pairs: "Pairs") -> "Sequence[Rendered]":
    """The tokens of a split's examples."""
    return pairs.rendered


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a training minimises: the rows it reads, and the loss of a batch of them.

    The loss of an optimizer step, and of a validation, is a mean over items. For supervised fine-tuning an item is a
    predicted token, for a loss over pairs of answers (such as DPO's) it is a pair. The trainer divides sums of losses
    by numbers of items, so that neither the batch size, nor gradient accumulation, nor the number of processes
    changes the loss.

    Attributes:
        name: as recipes write it, in `Training.objective`.
        summary: what is minimised, in half a sentence.
        columns: name and type of each column of the rows, which lie on disk. `length` is one of them: all tokens that
            the model reads for a row. Rows of like length are batched together, and speed is counted by it.
        examples: of a split, what `rows` and `checked_loss` are given; the rendered examples, unless it is said
            otherwise.
        rows: makes rows of examples, read once and in their order; neither has to be in memory as a whole. Raises
            MethodError for examples that can't be trained on.
        collator: id of the padding token, and the multiple to which texts are padded -> a function from rows to a
            batch: tensors by name, each with as many entries in its first dimension as there are rows.
        items: number of items in a batch, a tensor without dimensions. It is asked for before the loss is computed,
            for all batches of an optimizer step.
        total_items: number of items in all rows of a split, by which a validation is normalised.
        loss: model, batch, and whether `has_linear_output(model)` -> sum of the losses of the batch's items, a tensor
            without dimensions. In a validation the model is in evaluation mode, and there are no gradients. PEFT's
            `disable_adapter()` does not give a reference model here: layers on the fast paths of `fast_training` do
            not follow it.
        checked_loss: model in evaluation mode, examples, id of the padding token, batch size -> the number that a
            saved model must have in common with the trained one. The saved model may be a plain checkpoint, so it
            can't depend on an adapter that is switched off.
        plain_losses: model in evaluation mode, examples -> the loss of each item, (items,), reckoned plainly: one text
            at a time, without `rows`, `collator` and `loss`, which are held against it before a training. None leaves
            that out.
        reads_once: whether `loss` lets the model read the batch's `input_ids`, (batch, length), once and nothing else.
            What frozen layers give for a row can be kept then.
    """

    name: str
    summary: str
    columns: "Mapping[str, pyarrow.DataType]"
    examples: "Callable[[Pairs], Sequence[Any]]" = rendered_of
    rows: "Callable[[Iterable[Any]], Iterable[Mapping[str, Any]]]"
    collator: "Callable[[int, int], Callable[[Sequence[Mapping[str, Any]]], dict[str, torch.Tensor]]]"
    items: "Callable[[Batch], torch.Tensor]"
    total_items: "Callable[[Dataset], int]"
    loss: "Callable[[nn.Module, Batch, bool], torch.Tensor]"
    checked_loss: "Callable[[nn.Module, Sequence[Any], int, int], float]"
    plain_losses: "Callable[[nn.Module, Sequence[Any]], torch.Tensor] | None" = None
    reads_once: bool = False
