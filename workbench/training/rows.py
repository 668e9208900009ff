"""Turns of one conversation in one row: what they share is read once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
from datasets import Dataset

from workbench.data.render import Rendered
from workbench.data.store import Store, in_parts
from workbench.errors import MethodError
from workbench.training.loss import IGNORED, labelled

# Rows that begin alike (a question asked a hundred times) are not all looked through.
MOST_TRIED = 16
# Examples among which those are looked for that begin alike; turns of one conversation stand side by side.
LOOKED_THROUGH = 4096
# Validation examples on which a saved model is held against the trained one.
CHECKED = 32
SCHEMA = {
    "input_ids": pyarrow.list_(pyarrow.int32()),
    "labels": pyarrow.list_(pyarrow.int32()),
    "length": pyarrow.int32(),
}


@dataclass(frozen=True, kw_only=True)
class TrainingRows:
    """What a training reads, the same for every method; it lies on disk.

    Attributes:
        train: rows of `joined`.
        validation: likewise, by which a training stops.
        checked: examples of the validation on which a saved model is held against the trained one.
    """

    train: Dataset
    validation: Dataset
    checked: Sequence[Rendered]


def training_rows(
    train: Sequence[Rendered], validation: Sequence[Rendered], store: Store | None = None, key: str = ""
) -> TrainingRows:
    """Make rows of examples.

    Args:
        store: where they go; None takes a temporary one.
        key: what tells these examples from others in the store, such as `PreparedData.content`: rows that lie there
            under it are opened. Without it they are always made.

    Raises:
        MethodError: there are none, or one of them has no answer.
    """
    if not train or not validation:
        raise MethodError("no examples to train on" if not train else "no examples to validate with")
    store = store or Store.temporary()

    def rows(split: str, examples: Sequence[Rendered]) -> Dataset:
        name = f"{key}.{split}.rows" if key else f"{split}.rows"
        return store.open(name) if key and name in store else pack_turns(examples, store, name)

    return TrainingRows(
        train=rows("train", train), validation=rows("validation", validation), checked=validation[:CHECKED]
    )


def pack_turns(examples: Iterable[Rendered], store: Store | None = None, name: str = "rows") -> Dataset:
    """Rows of token ids and labels, an example inside the row of one whose prompt begins with it.

    An agent's second turn has the first one in its prompt. Trained apart, the first is computed twice; in one
    row, with labels on both, every token has the same loss given the same text before it. Rows that only begin
    alike stay apart, and so do equal examples.

    Args:
        store: where the rows go, as `name`; None takes a temporary one.

    Returns:
        Rows as `labelled` makes them, in the order of their longest examples; on disk.

    Raises:
        MethodError: an example has no answer.
    """
    parts = in_parts(examples, LOOKED_THROUGH)
    return (store or Store.temporary()).write(name, (row for part in parts for row in _pack_turns(part)), SCHEMA)


def lengths(rows: Dataset) -> np.ndarray:
    """Tokens of each row, (rows,)."""
    return rows.data.column("length").to_numpy()


def count_labels(rows: Dataset) -> int:
    """How many tokens are predicted."""
    labels = pyarrow.compute.list_flatten(rows.data.column("labels"))
    return int(pyarrow.compute.sum(pyarrow.compute.not_equal(labels, IGNORED)).as_py())


def _pack_turns(examples: Sequence[Rendered]) -> list[dict[str, Any]]:
    if unlabelled := [example.id for example in examples if not example.completion_ids]:
        raise MethodError(f"examples without a trained token: {', '.join(unlabelled[:5])}")
    rows = [labelled(example) for example in examples]
    order = sorted(range(len(rows)), key=lambda index: (rows[index]["input_ids"], index), reverse=True)
    # What begins with an example comes right before it now, the nearest first from behind.
    kept: list[int] = []
    for index in order:
        ids, labels = rows[index]["input_ids"], rows[index]["labels"]
        for other in reversed(kept[-MOST_TRIED:]):
            longer = rows[other]
            if longer["input_ids"][: len(ids)] != ids:
                kept.append(index)
                break
            if all(label == IGNORED for label in longer["labels"][: len(ids)]):
                longer["labels"][: len(ids)] = labels
                break
        else:
            kept.append(index)
    return [rows[index] for index in sorted(kept)]
