"""The device that models are held on: one that is not the CPU, by the fake one of a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fake_device
from workbench import device
from workbench.errors import UserError

CASES = Path(__file__).with_name("device_cases.py")


def test_what_holds_on_another_device(tmp_path: Path) -> None:
    require_cases(tmp_path, "not slow")


@pytest.mark.slow
def test_what_holds_on_another_device_at_fewer_bits_too(tmp_path: Path) -> None:
    require_cases(tmp_path, "slow")


def require_cases(folder: Path, marked: str) -> None:
    """See that the cases of a marker hold; what a process logs would keep models that failed alive."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        fake_device.NO_FLOAT64: "1",
        "TORCHDYNAMO_DISABLE": "1",  # bitsandbytes would compile
        "OMP_NUM_THREADS": "1",
    }
    options = ("-q", "-p", "no:xdist", "-p", "no:logging", "-m", marked, "--basetemp", str(folder / "cases"))
    command = [sys.executable, "-m", "pytest", *options, str(CASES)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_an_accelerator_there_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    monkeypatch.setattr(device, "_chosen", None)
    assert device.device() == torch.device("cpu")
    device.choose("cpu")
    assert device.on_cpu()
    with pytest.raises(UserError, match=r"--device cuda: PyTorch .* finds no accelerator here"):
        device.choose("cuda")
