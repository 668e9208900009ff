"""What a training reads, made once for all methods."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from workbench.data.store import Store
from workbench.errors import MethodError
from workbench.training.objectives import Objective, find_objective

# Validation examples on which a saved model is held against the trained one.
CHECKED = 16


@dataclass(frozen=True, kw_only=True)
class TrainingRows:
    """What a training reads, the same for every method; it lies on disk.

    Attributes:
        objective: for which the rows were made.
        train: rows of the objective.
        validation: likewise, by which a training stops.
        checked: examples of the validation on which a saved model is held against the trained one.
    """

    objective: Objective
    train: Dataset
    validation: Dataset
    checked: Sequence[Any]


def training_rows(
    train: Sequence[Any],
    validation: Sequence[Any],
    store: Store | None = None,
    key: str = "",
    *,
    objective: str | Objective = "sft",
) -> TrainingRows:
    """Make rows of examples.

    Args:
        train, validation: what the objective's `examples` takes of a split.
        store: where they go; None takes a temporary one.
        key: what tells these examples from others in the store, such as `PreparedData.content`: rows that lie there
            under it are opened. Without it they are always made.
        objective: that is to read them, or its name.

    Raises:
        MethodError: there are none, or the objective can't be trained on one of them.
        UserError: there is no such objective.
    """
    if not train or not validation:
        raise MethodError("no examples to train on" if not train else "no examples to validate with")
    chosen = find_objective(objective) if isinstance(objective, str) else objective
    into = store or Store.temporary()

    def rows(split: str, examples: Sequence[Any]) -> Dataset:
        name = ".".join(filter(None, (key, split, chosen.name, "rows")))
        if key and name in into:
            return into.open(name)
        return into.write(name, chosen.rows(examples), chosen.columns)

    return TrainingRows(
        objective=chosen,
        train=rows("train", train),
        validation=rows("validation", validation),
        checked=validation[:CHECKED],
    )
