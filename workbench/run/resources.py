"""What a method costs, and on what machine."""

import os
import platform
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

from workbench.device import counts_memory, device_name, forget_peak, peak_memory
from workbench.models import bfloat16_is_fast, release_memory
from workbench.processes import count, fsdp
from workbench.results import Usage
from workbench.run.usage import Meter

LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets", "sacrebleu")
SAMPLING_SECONDS = 0.05


@dataclass
class Watched:
    """What a block took.

    Attributes:
        peak_bytes: the highest use of memory: of an accelerator with memory of its own, else of this process.
        usage: of the processor, and by others; None until the block has ended.
    """

    peak_bytes: int = 0
    usage: Usage | None = None


@contextmanager
def watched() -> Iterator[Watched]:
    """Watch what is used of memory, of the processor and by others, while the block runs."""
    release_memory()
    found, meter = Watched(), Meter()
    counted = counts_memory()
    forget_peak()
    process = psutil.Process()
    done = threading.Event()

    def watch() -> None:
        while True:
            if not counted:
                found.peak_bytes = max(found.peak_bytes, process.memory_info().rss)
            meter.note()
            if done.wait(SAMPLING_SECONDS):
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()
        if counted:
            found.peak_bytes = peak_memory()
        found.usage = meter.read()


def versions() -> dict[str, str]:
    """Of this project, Python and the libraries that a result hangs on."""
    from workbench.version import __version__

    libraries = {name: metadata.version(name) for name in LIBRARIES}
    return {"workbench": __version__, "python": platform.python_version(), **libraries}


def changed_versions(begun: Mapping[str, str] | None) -> dict[str, str]:
    """Those with which a run was begun and that are others now.

    Args:
        begun: all of them; None where they were not noted.
    """
    now = versions()
    return {name: version for name, version in (begun or {}).items() if now.get(name) != version}


def environment(begun: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Machine and versions, for the record.

    Args:
        begun: versions with which the run was begun; what is another now is recorded under `begun_with`.
    """
    now = versions()
    changed = changed_versions(begun)
    return {
        "workbench": now["workbench"],
        "python": now["python"],
        "platform": platform.platform(),
        "processor": processor_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "amx": torch.cpu._is_amx_tile_supported(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "device": device_name(),
        "bfloat16_in_hardware": bfloat16_is_fast(),
        "threads": torch.get_num_threads(),
        "processes": count(),
        "fsdp": fsdp() is not None,
        "libraries": {name: now[name] for name in LIBRARIES},
        **({"begun_with": changed} if changed else {}),
    }


def processor_name() -> str:
    """The processor's own name for itself, where the system tells it."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
