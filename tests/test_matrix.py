"""A part of the table of `matrix.py`: every architecture and every method once, at one precision each."""

import pytest

from matrix import METHODS, checkpoint_of, try_cell
from tiny import KINDS
from workbench.export import FreshProcess
from workbench.models import BITS

# Method and precision turn with the architecture, so that a few cells meet all of each.
CELLS = [
    (kind, METHODS[(3 * row + column) % len(METHODS)], BITS[(row + column) % len(BITS)])
    for row, kind in enumerate(KINDS)
    for column in range(3)
]


@pytest.mark.parametrize("kind", KINDS)
def test_cells(kind: str, process: FreshProcess) -> None:
    with checkpoint_of(kind) as (folder, recipe):
        cells = [try_cell(folder, recipe, *cell, process) for cell in CELLS if cell[0] == kind]
    assert len(cells) == 3
    assert all(cell.passed for cell in cells), [(cell.method, cell.bits, cell.why) for cell in cells]


def test_every_method_and_precision_is_met() -> None:
    assert {method for _, method, _ in CELLS} == set(METHODS)
    assert {bits for *_, bits in CELLS} == set(BITS)
