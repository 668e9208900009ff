"""What is told apart, and said, where there is not enough memory."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

from workbench.console import bytes_text
from workbench.device import memory_free, memory_there
from workbench.models import held_bytes, weight_shapes
from workbench.run.prepare import Job

# What libraries say where memory can't be had.
NO_MEMORY = re.compile(
    r"not enough memory|[Cc]an(no|')t allocate memory|out of memory|Unable to allocate", re.IGNORECASE
)


class TrainingMemoryError(RuntimeError):
    """A training that found no memory for its rows.

    Attributes:
        rows_together: that were computed at once.
    """

    def __init__(self, said: str, rows_together: int) -> None:
        super().__init__(f"with {rows_together} row{'s' * (rows_together > 1)} at once: {said}")
        self.rows_together = rows_together


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it tells that memory could not be had; PyTorch says so of a CPU's in words alone."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError | TrainingMemoryError) or bool(
        NO_MEMORY.search(str(error))
    )


@contextmanager
def memory_told(rows: int) -> Iterator[None]:
    """Raise a `TrainingMemoryError` where the block finds no memory for so many rows."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingMemoryError(" ".join(str(error).split()), rows) from error


def what_needs_less(error: Exception, job: Job) -> str:
    """What is said of a method for which there is not enough memory, and what would need less."""
    memory, training = psutil.virtual_memory(), job.recipe.training
    free, whole = memory.available, memory.total
    if isinstance(error, torch.OutOfMemoryError) or isinstance(error.__cause__, torch.OutOfMemoryError):
        free, whole = memory_free(), memory_there()
    less = []
    if not isinstance(error, TrainingMemoryError):
        more = range(training.gradient_accumulation_steps + 1, training.batch_size + 1)
        parts = next((number for number in more if training.batch_size % number == 0), None)
        in_parts = f"Training(gradient_accumulation_steps={parts}), which computes the rows of a step in smaller parts"
        less.append(in_parts if parts else "a smaller batch_size")
    if fewer := [bits for bits in (16, 8, 4) if bits < job.bits]:
        shapes = weight_shapes(job.checkpoint.path)
        held = {bits: bytes_text(held_bytes(shapes, bits)) for bits in (job.bits, *fewer)}
        taken = ", ".join(f"{held[bits]} at {bits}" for bits in fewer)
        less.append(
            f"--bits {' or '.join(map(str, fewer))} (the base alone takes {held[job.bits]} at {job.bits} bits, {taken})"
        )
    if job.shipped_bits == 32:
        less.append("--precision bfloat16 (half of what scoring, merging and the proof take)")
    told = " ".join(str(error).split())[:200] or type(error).__name__
    return (
        f"out of memory: {told}. {bytes_text(free)} of {bytes_text(whole)} are free. What needs "
        f"less: {'; '.join([*less, 'a smaller max_tokens', 'smaller settings of the method'])}"
    )
