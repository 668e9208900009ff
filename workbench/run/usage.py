"""What a stage takes of the machine, and what other programs took of it meanwhile."""

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from statistics import median

import psutil
import torch

from workbench.device import device
from workbench.processes import here
from workbench.results import Usage

POWERCAP = Path("/sys/class/powercap")
# Of the product of two matrices by which the speed of a machine is told, and how often it is computed.
PRODUCT_SIZE, PRODUCT_SIZE_ELSEWHERE = {"cpu": 512}, 4096
PRODUCTS = 9


class Meter:
    """What is used from its making on."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._own, self._all = _own_seconds(), _all_seconds()
        self._energy = Energy()

    def note(self) -> None:
        """Look at counters that begin anew after some time; to be called every few minutes or more often."""
        self._energy.note()

    def read(self) -> Usage:
        """What was used so far."""
        seconds = max(time.perf_counter() - self._began, 1e-9)
        own = _own_seconds() - self._own
        self._energy.note()
        return Usage(
            seconds=seconds,
            processor_seconds=own,
            others=max(0.0, _all_seconds() - self._all - own) / seconds,
            joules=self._energy.joules,
        )


def _own_seconds() -> float:
    """Processor seconds of this process, those that train with it here, and what these started and has ended."""
    found = [psutil.Process(process).cpu_times() for process in here()]
    return float(sum(times.user + times.system + times.children_user + times.children_system for times in found))


def _all_seconds() -> float:
    """Processor seconds of everything on this machine, and those that the host of a virtual machine kept back."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    twice = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # they are part of user and nice
    return float(sum(times) - idle - twice)


class Energy:
    """Energy counted by the machine: by Intel's and AMD's RAPL, and by NVIDIA's NVML where `pynvml` is installed.

    Attributes:
        joules: since its making; None where the machine tells nothing.
    """

    def __init__(self) -> None:
        self._last = _counters()
        self.joules: float | None = 0.0 if self._last else None

    def note(self) -> None:
        """Add what the counters show."""
        if self.joules is None:
            return
        now = _counters()
        for name, (value, most) in now.items():
            before = self._last.get(name, (value, most))[0]
            self.joules += (value - before if value >= before else value - before + most) / 1e6
        self._last = now


def _counters() -> Mapping[str, tuple[float, float]]:
    """Name -> microjoules so far, and at how many the counter begins anew."""
    found: dict[str, tuple[float, float]] = {}
    for domain in sorted(POWERCAP.glob("intel-rapl:*")):
        if domain.name.count(":") == 1:  # a whole package, whose parts have further figures
            with suppress(OSError, ValueError):  # only the administrator may read them on some systems
                value = float((domain / "energy_uj").read_text(encoding="ascii"))
                found[domain.name] = value, float((domain / "max_energy_range_uj").read_text(encoding="ascii"))
    if device().type == "cuda":
        with suppress(ImportError):
            found |= _of_nvml()
    return found


def _of_nvml() -> dict[str, tuple[float, float]]:
    import pynvml

    try:
        pynvml.nvmlInit()
        # NVML counts devices as the machine has them, PyTorch those that CUDA_VISIBLE_DEVICES leaves.
        unique = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{unique}")
        return {"nvml": (1000.0 * pynvml.nvmlDeviceGetTotalEnergyConsumption(handle), float("inf"))}
    except pynvml.NVMLError:  # an older GPU counts no energy
        return {}


def product_seconds() -> float | None:
    """How long this machine takes now for a product of two matrices of float32: the median of a few.

    None where there is no memory for it: no run fails by that.
    """
    try:
        return _product_seconds()
    except RuntimeError:  # torch.OutOfMemoryError among them
        return None


def _product_seconds() -> float:
    where = device()
    size = PRODUCT_SIZE.get(where.type, PRODUCT_SIZE_ELSEWHERE)
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(size, size, generator=generator).to(where)
    taken = []
    for _ in range(PRODUCTS + 1):
        began = time.perf_counter()
        (matrix @ matrix)[0, 0].item()
        taken.append(time.perf_counter() - began)
    return median(taken[1:])  # the first one wakes threads
