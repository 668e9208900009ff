"""The device that models are held on: which one, and its memory.

All goes by `torch.accelerator`, which is the same for CUDA, ROCm, XPU and MPS. Of several devices a process takes one.
"""

import os
from typing import TYPE_CHECKING

from workbench.errors import UserError

if TYPE_CHECKING:
    import torch

CPU = "cpu"
# By this accelerate, and so the Trainer, are told of a device that is not the one they would take.
ACCELERATES = "ACCELERATE_TORCH_DEVICE"
EXAMPLES = "cpu, cuda, cuda:1, mps or xpu"

_chosen: "torch.device | None" = None


def choose(name: str | None) -> None:
    """Hold models on a device from now on, in this process.

    Args:
        name: as PyTorch names devices, such as "cpu", "cuda" or "cuda:1"; None for the accelerator, if there is one.

    Raises:
        UserError: there is no such device here, or PyTorch was not built for it.
    """
    global _chosen  # noqa: PLW0603  PyTorch's own is as global
    if name is None:
        return
    import torch

    try:
        asked = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: no device of PyTorch; such are {EXAMPLES}") from error
    if asked.type != CPU:
        _require_there(asked)
        if asked.index is not None:
            torch.accelerator.set_device_index(asked.index)
    if asked.type == CPU or asked.index is not None:
        os.environ[ACCELERATES] = name
    _chosen = asked


def _require_there(asked: "torch.device") -> None:
    import torch

    there = torch.accelerator.current_accelerator(check_available=True)
    if there is None or there.type != asked.type:
        what = "no accelerator" if there is None else f"{torch.accelerator.device_count()} of {there.type}"
        raise UserError(f"--device {asked}: PyTorch {torch.__version__} finds {what} here")
    if (asked.index or 0) >= torch.accelerator.device_count():
        raise UserError(f"--device {asked}: there are {torch.accelerator.device_count()}, counted from 0")


def device() -> "torch.device":
    """What was chosen; else the accelerator, if there is one, or the CPU."""
    import torch

    if _chosen is not None:
        return _chosen
    # Without the check it names what PyTorch was built for, GPU or no GPU.
    return torch.accelerator.current_accelerator(check_available=True) or torch.device(CPU)


def on_cpu() -> bool:
    """Whether models are held in the memory of the host."""
    return device().type == CPU


def device_count() -> int:
    """How many devices of the kind of this one there are; the host's memory is one."""
    import torch

    return 1 if on_cpu() else torch.accelerator.device_count()


def device_name() -> str:
    """The device as its maker names it, where PyTorch tells that; else its type."""
    import torch

    module = torch.get_device_module(device())
    return str(module.get_device_name()) if hasattr(module, "get_device_name") else device().type


def synchronize() -> None:
    """Wait until the device has done what it was given."""
    if not on_cpu():
        import torch

        torch.accelerator.synchronize()


def memory_there() -> int:
    """Bytes of memory that models can be held in: the device's own, or the host's."""
    import psutil
    import torch

    return int(torch.accelerator.get_memory_info()[1] if counts_memory() else psutil.virtual_memory().total)


def memory_free() -> int:
    """Bytes of it that nobody uses, what PyTorch keeps for later among them."""
    import psutil
    import torch

    if not counts_memory():
        return int(psutil.virtual_memory().available)
    kept = torch.accelerator.memory_reserved() - torch.accelerator.memory_allocated()
    return int(torch.accelerator.get_memory_info()[0] + kept)


def counts_memory() -> bool:
    """Whether PyTorch counts what tensors take: an accelerator's memory, where that is none of the host's."""
    return device().type not in (CPU, "mps")


def forget_peak() -> None:
    """Let `peak_memory` begin anew."""
    if counts_memory():
        import torch

        torch.accelerator.reset_peak_memory_stats()


def peak_memory() -> int:
    """The most that tensors took since `forget_peak`, in bytes, where `counts_memory`."""
    import torch

    return int(torch.accelerator.max_memory_allocated())


def give_back() -> None:
    """Give memory that PyTorch keeps for later back to the device."""
    if not on_cpu():
        import torch

        torch.accelerator.empty_cache()
