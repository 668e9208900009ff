"""Turns of one conversation in one row: what they share is read once."""

from collections.abc import Sequence
from typing import Any

from workbench.data.render import Rendered
from workbench.training.loss import IGNORED, labelled

# Rows that begin alike (a question asked a hundred times) are not all looked through.
MOST_TRIED = 16


def joined(examples: Sequence[Rendered]) -> list[dict[str, Any]]:
    """Rows of token ids and labels, an example inside the row of one whose prompt begins with it.

    An agent's second turn has the first one in its prompt. Trained apart, the first is computed twice; in one
    row, with labels on both, every token has the same loss given the same text before it. Rows that only begin
    alike stay apart, and so do equal examples.

    Returns:
        Rows as `labelled` makes them, in the order of their longest examples.
    """
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
