"""What a training minimises, held against the same reckoned plainly: a wrong loss looks like any other.

A collator that masks every label, or none, gives losses that fall, adapters that load, and exports that are proven
equal to what was trained.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from workbench.errors import MethodError
from workbench.models import plain_model
from workbench.training.activations import ROW

if TYPE_CHECKING:
    from workbench.training.trainer import ObjectiveTrainer

# Examples on which both are computed.
COMPARED = 4
# How far both may be apart, relative to the loss: in float32, and where bfloat16 or integers at 8 bits round; there the
# logit of one token may be a quarter off, which counts for as much less as there are more tokens.
TOLERANCE, ROUNDED_TOLERANCE, ROUNDED_LOGIT = 1e-3, 0.03, 0.25
# Of a schedule the first step may have a learning rate of zero.
STEPS = 2


@torch.no_grad()
def plain_losses(trainer: "ObjectiveTrainer", examples: Sequence[Any]) -> list[torch.Tensor]:
    """Losses of the items of each example, reckoned plainly; none for an objective that doesn't say how.

    Args:
        trainer: its model is not on the fast paths yet.
    """
    plain = trainer.objective.plain_losses
    if plain is None:
        return []
    with _evaluating(trainer) as model:
        return [plain(model, [example]).cpu().double() for example in examples]


@torch.no_grad()
def require_plain_loss(trainer: "ObjectiveTrainer", examples: Sequence[Any], plain: list[torch.Tensor]) -> None:
    """See that what the trainer minimises is the loss of its objective: of one example after the other, and of all.

    Args:
        examples: as `plain_losses` was given.
        plain: what it found.

    Raises:
        MethodError: it is not.
    """
    if not plain:
        return
    for some, losses in [
        *(([one], loss) for one, loss in zip(examples, plain, strict=True)),
        (examples, torch.cat(plain)),
    ]:
        right, items, name = float(losses.mean()), len(losses), trainer.objective.name
        if not math.isfinite(right):
            raise MethodError(f"the loss of a validation example is {right} before the training")
        loss, found = _trained_loss(trainer, some)
        if found != items:
            raise MethodError(
                f"the training would count {found} items where {_examples(some)} {items}: its labels are not those of "
                f"{name}"
            )
        if not abs(loss - right) <= _tolerance(trainer, right, items):
            raise MethodError(
                f"the training would minimise another loss than {name}: {loss:.4f} where {_examples(some)} {right:.4f}"
            )


def _examples(some: Sequence[Any]) -> str:
    return "an example has" if len(some) == 1 else f"{len(some)} examples have"


def _trained_loss(trainer: "ObjectiveTrainer", examples: Sequence[Any]) -> tuple[float, int]:
    """Loss per item of examples as the trainer computes it, and their number."""
    objective = trainer.objective
    rows = [{**row, ROW: number} for number, row in enumerate(objective.rows(examples))]
    batch = {k: v.to(trainer.args.device) for k, v in trainer.collate(rows).items() if k != ROW}
    items = int(objective.items(batch))
    with _evaluating(trainer) as model:
        return float(objective.loss(model, batch, trainer.linear_output)) / max(items, 1), items


def _tolerance(trainer: "ObjectiveTrainer", loss: float, items: int) -> float:
    """How far a loss may be from another of the same items, in its own unit."""
    model: Any = plain_model(trainer.model)
    if trainer.args.bf16 or getattr(model, "is_quantized", False) or model.dtype != torch.float32:
        return ROUNDED_TOLERANCE * max(1.0, abs(loss)) + ROUNDED_LOGIT / items**0.5
    return TOLERANCE * max(1.0, abs(loss))


@contextmanager
def _evaluating(trainer: "ObjectiveTrainer") -> Iterator[nn.Module]:
    """The trainer's model, without dropout while the block runs."""
    model = trainer.model
    assert isinstance(model, nn.Module)
    training = model.training
    model.eval()
    try:
        with torch.autocast(trainer.args.device.type, torch.bfloat16, enabled=trainer.args.bf16):
            yield model
    finally:
        model.train(training)


def marks(model: nn.Module) -> list[int]:
    """Of each weight that is trained the sum of its bits, by which a change is seen."""
    whole = {4: torch.int32, 2: torch.int16, 1: torch.int8, 8: torch.int64}
    return [
        int(parameter.detach().view(whole[parameter.element_size()]).sum(dtype=torch.int64))
        for parameter in model.parameters()
        if parameter.requires_grad
    ]


def require_change(model: nn.Module, before: Sequence[int], steps: int) -> None:
    """See that a training has changed something.

    Args:
        before: `marks` at its beginning.
        steps: that were made since.

    Raises:
        MethodError: it has not.
    """
    if steps >= STEPS and marks(model) == list(before):
        raise MethodError(f"nothing was trained: in {steps} steps no weight has changed")
