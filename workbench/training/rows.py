"""Rows of token ids and labels; the turns of one conversation are in one row, and what they share is read once."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
from datasets import Dataset

from workbench.data.render import Rendered
from workbench.data.store import column, in_parts
from workbench.errors import MethodError
from workbench.training.loss import IGNORED, labelled

# Rows that begin alike (a question asked a hundred times) are not all looked through.
MOST_TRIED = 16
# Examples among which those are looked for that begin alike; turns of one conversation stand side by side.
LOOKED_THROUGH = 4096
COLUMNS = {
    "input_ids": pyarrow.list_(pyarrow.int32()),
    "labels": pyarrow.list_(pyarrow.int32()),
    "length": pyarrow.int32(),
}


def pack_turns(examples: Iterable[Rendered]) -> Iterator[dict[str, Any]]:
    """Rows of token ids and labels, an example inside the row of one whose prompt begins with it.

    An agent's second turn has the first one in its prompt. Trained apart, the first is computed twice; in one
    row, with labels on both, every token has the same loss given the same text before it. Rows that only begin
    alike stay apart, and so do equal examples.

    Yields:
        Rows as `labelled` makes them, with `COLUMNS`, in the order of their longest examples.

    Raises:
        MethodError: an example has no answer.
    """
    for part in in_parts(examples, LOOKED_THROUGH):
        yield from _pack_part(part)


def lengths(rows: Dataset) -> np.ndarray:
    """Tokens of each row, (rows,)."""
    return column(rows, "length").to_numpy()


def count_labels(rows: Dataset) -> int:
    """How many tokens are predicted."""
    labels = pyarrow.compute.list_flatten(column(rows, "labels"))
    return int(pyarrow.compute.sum(pyarrow.compute.not_equal(labels, IGNORED)).as_py())


def _pack_part(examples: Sequence[Rendered]) -> list[dict[str, Any]]:
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
