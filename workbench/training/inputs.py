"""What a training reads, made once for all methods."""

from collections.abc import Sequence
from dataclasses import dataclass

from datasets import Dataset

from workbench.data.render import Rendered
from workbench.data.store import write_dataset
from workbench.errors import MethodError
from workbench.training.objectives import find_objective

# Validation examples on which a saved model is held against the trained one.
CHECKED = 32


@dataclass(frozen=True, kw_only=True)
class TrainingRows:
    """What a training reads, the same for every method; it lies on disk.

    Attributes:
        train: rows of the objective.
        validation: likewise, by which a training stops.
        checked: examples of the validation on which a saved model is held against the trained one.
    """

    train: Dataset
    validation: Dataset
    checked: Sequence[Rendered]


def training_rows(train: Sequence[Rendered], validation: Sequence[Rendered], *, objective: str = "sft") -> TrainingRows:
    """Make rows of examples.

    Args:
        objective: name of the objective that is to read them.

    Raises:
        MethodError: there are none, or the objective can't be trained on one of them.
        UserError: there is no such objective.
    """
    if not train or not validation:
        raise MethodError("no examples to train on" if not train else "no examples to validate with")
    chosen = find_objective(objective)
    return TrainingRows(
        train=write_dataset(chosen.rows(train), chosen.columns),
        validation=write_dataset(chosen.rows(validation), chosen.columns),
        checked=validation[:CHECKED],
    )
