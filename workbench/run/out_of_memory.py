"""What is done, and said, where there is not enough memory."""

import logging
from collections.abc import Callable
from typing import TypeVar

import psutil
import torch

from workbench.console import bytes_text
from workbench.device import memory_free, memory_there
from workbench.models import held_bytes, release_memory, weight_shapes
from workbench.processes import count
from workbench.run.method_training import MethodTraining, TrainingMemoryError, is_out_of_memory
from workbench.run.prepare import Job

T = TypeVar("T")
logger = logging.getLogger(__name__)

__all__ = ["in_smaller_parts", "is_out_of_memory", "what_needs_less"]


def in_smaller_parts(training: MethodTraining, carry_out: Callable[[MethodTraining], T]) -> T:
    """Carry out a training; where there is no memory for its rows, again with twice as many parts of a step, and so on.

    The loss of a step, and so what is trained, does not hang on its parts. Of several processes one alone may have run
    out of memory, in the middle of what all do: there it is not tried again.

    Args:
        carry_out: attaches and trains anew.

    Raises:
        TrainingMemoryError: there is no memory for one row.
    """
    while True:
        try:
            return carry_out(training)
        except TrainingMemoryError as error:
            smaller = training.in_more_parts()
            if smaller is None or count() > 1:
                raise
            logger.warning(
                "%s: out of memory with %d rows at once; it is trained with %d",
                training.name, error.rows_together, smaller.rows_together,
            )  # fmt: skip
        release_memory()  # what the error held on to
        training = smaller


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
