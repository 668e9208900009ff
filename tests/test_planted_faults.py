"""What the proofs catch: each kind of fault, put into a sound export or training on purpose.

`benchmarks/planted_faults.py` plants each in several architectures; here each is planted in one of them.
"""

import re
from collections.abc import Iterator

import pytest
from faults import EXPORTS, TRAININGS, Fault, TrainingFault
from planted_faults import TRAINED, Spoiling, planted, trained


@pytest.fixture(scope="module")
def spoiling() -> Iterator[Spoiling]:
    with Spoiling() as process:
        yield process


@pytest.mark.parametrize(("number", "fault"), enumerate(EXPORTS), ids=[fault.name for fault in EXPORTS])
def test_an_export_with_a_fault_is_refused_by_its_name(number: int, fault: Fault, spoiling: Spoiling) -> None:
    proof = planted(fault, fault.kinds[number % len(fault.kinds)], spoiling)
    assert not proof.holds
    assert re.search(fault.said, str(proof.reason)), proof.reason


@pytest.mark.parametrize(("number", "fault"), enumerate(TRAININGS), ids=[fault.name for fault in TRAININGS])
def test_a_training_with_a_fault_is_stopped(number: int, fault: TrainingFault) -> None:
    kind = TRAINED[number % len(TRAINED)]
    assert trained(None, kind) is None
    assert re.search(fault.said, str(trained(fault, kind)))
