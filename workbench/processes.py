"""The processes that train one model together, as `torchrun` and `accelerate launch` begin them.

The first of them, of rank 0, carries out the run and writes its files. The others take part in its trainings: each
computes its share of the rows of every batch. What they have to tell each other beside gradients goes by a group of its
own, over gloo, where one may wait for another for as long as it takes.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from workbench.device import on_cpu
from workbench.errors import MethodError, UserError
from workbench.files import is_of_full_disk
from workbench.fsdp import Fsdp, taken_from

# So long one may wait to be told something; another evaluates, merges and proves meanwhile.
IDLE = timedelta(days=30)
# So long all wait for the last at the end of a training, and of what is done before it.
PATIENCE = timedelta(minutes=5)

# In the environment of each process, how many there are: as torchrun says it, and implementations of MPI.
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")

_group: Any = None
_here: list[int] = []
_fsdp: Fsdp | None = None


def begun() -> int:
    """How many processes were begun together, whether they have joined yet or not."""
    return max(int(os.environ.get(name, "1")) for name in SIZES)


def count() -> int:
    """How many processes train together; 1 before they have joined."""
    if _group is None:
        return 1
    import torch.distributed as dist

    return dist.get_world_size()


def rank() -> int:
    """The number of this process among them, from 0."""
    if _group is None:
        return 0
    import torch.distributed as dist

    return dist.get_rank()


def here() -> list[int]:
    """The ids of those of them that are on this machine, this one's among them."""
    return _here or [os.getpid()]


def leads() -> bool:
    """Whether this process carries out the run."""
    return rank() == 0


def fsdp() -> Fsdp | None:
    """How they split the frozen weights of a base; None where each holds all of them."""
    return _fsdp


def join() -> None:
    """Meet the other processes, and take the device of this one's own.

    Raises:
        UserError: they can't be met, or are to split the model in a way that is not done here.
    """
    global _group, _here, _fsdp  # noqa: PLW0603  PyTorch's own group is as global
    if begun() == 1 or _group is not None:
        return
    if "WORLD_SIZE" in os.environ and "RANK" not in os.environ:
        said = f"WORLD_SIZE is {begun()} here, but no RANK is set"
        raise UserError(f"{said}: begin the processes by torchrun, or unset it")
    # Else PyTorch warns that it looks for weights which a step does not train; a mixture of experts has some.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    import torch.distributed as dist
    from accelerate import PartialState

    for name, what in (("DEEPSPEED", "DeepSpeed"), ("MEGATRON_LM", "Megatron-LM")):
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            raise UserError(
                f"{what} splits the model itself among processes, which is not supported: take accelerate's FSDP "
                "configuration, which splits frozen weights, or its multi-GPU configuration and --bits 8 or 4"
            )
    _fsdp = taken_from(os.environ)
    try:
        PartialState(cpu=on_cpu())
        _group = dist.new_group(backend="gloo", timeout=IDLE)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the {begun()} processes that were begun can't meet: {error}") from error
    machine = socket.gethostname()
    _here = [process for name, process in gathered((machine, os.getpid())) if name == machine]


def from_first(value: Any = None) -> Any:
    """What rank 0 gives, at every process; the others wait for it."""
    if _group is None:
        return value
    import torch.distributed as dist

    told = [value]
    with _connected():
        dist.broadcast_object_list(told, src=0, group=_group)
    return told[0]


def tell(value: Any) -> None:
    """Give the others a value, at rank 0; they get it by `from_first`."""
    if leads():
        from_first(value)


def gathered(value: Any) -> list[Any]:
    """What each process gives, in the order of their ranks, at all of them."""
    if _group is None:
        return [value]
    import torch.distributed as dist

    found: list[Any] = [None] * count()
    with _connected():
        dist.all_gather_object(found, value, group=_group)
    return found


@contextmanager
def _connected() -> Iterator[None]:
    """While the block runs, processes speak with each other.

    Raises:
        SystemExit: another one has ended.
    """
    try:
        yield
    except RuntimeError as error:
        # The first one's reason is what the user reads, and it is what began the others that ends them.
        said = f"error: another of the {count()} processes has ended; go on with --resume" if leads() else 1
        raise SystemExit(said) from error


@contextmanager
def in_turn() -> Iterator[None]:
    """The block is run by one process after the other, in the order of their ranks."""
    for _ in range(rank()):
        gathered(None)
    try:
        yield
    finally:
        for _ in range(rank(), count()):
            gathered(None)


@contextmanager
def together() -> Iterator[None]:
    """Either all processes come to the end of the block, or none does.

    Raises:
        MethodError: another process failed in it.
        OSError: the disk is full: this process can't go on, and the others end with it.
        SystemExit: another one did not come to its end at all: it waits in the middle of it for one that failed, and
            nothing can go on.
    """
    if _group is None:
        yield
        return
    try:
        yield
    except Exception as error:
        if is_of_full_disk(error):
            raise
        _meet(f"{type(error).__name__}: {error}")
        raise
    said = _meet(None)
    for number, reason in enumerate(said):
        if reason is not None:
            raise MethodError(f"process {number} of {count()} failed: {reason}")


def _meet(failed: str | None) -> list[str | None]:
    """Wait for all processes to come here; why each of them failed, or None.

    Raises:
        SystemExit: not all come.
    """
    import torch.distributed as dist

    try:
        dist.monitored_barrier(group=_group, timeout=PATIENCE)
    except RuntimeError as late:
        why = failed or "another process did not come to the end of what all of them do"
        said = f"error: the {count()} processes are not in step any more: {why}; go on with --resume"
        raise SystemExit(said if leads() or failed else 1) from late
    return gathered(failed)


@contextmanager
def leading() -> Iterator[None]:
    """When the block is over, tell the others that the run is: what they are told is None."""
    try:
        yield
    except UserError:
        tell(None)
        raise
    # After anything else the others may be anywhere; what began them ends them when this one ends.
    tell(None)
