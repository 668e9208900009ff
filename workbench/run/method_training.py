"""A method that is to be trained on the rows of a job: by this process, or by all that train together."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from workbench.methods import Method
from workbench.models import attach, release_memory, split_frozen
from workbench.processes import fsdp, in_turn, tell, together
from workbench.recipe import Training
from workbench.run.prepare import Job
from workbench.training import Limit, Place, Trained, train
from workbench.training.configuration import rows_together

logger = logging.getLogger(__name__)

# What processes that train together are told when the training of the task that they were told before begins.
BEGINS = "it begins"


# A setting of the Trainer's that some methods can't be trained with.
RECOMPUTED = "gradient_checkpointing"
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
def _memory_told(rows: int) -> Iterator[None]:
    """Raise a `TrainingMemoryError` where the block finds no memory for so many rows."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingMemoryError(" ".join(str(error).split()), rows) from error


@dataclass(frozen=True, kw_only=True)
class MethodTraining:
    """What a training hangs on.

    Attributes:
        job: looked at for the head that is trained.
        seed: of new weights and the order of the examples.
        settings: before those of the recipe; `learning_rate` is one of them.
        folder: for the training's state.
        title: in front of the progress bar; the entry's name where there is none.
        parts: in which the rows of a step are computed; None for as many as the recipe says.
    """

    job: Job
    method: Method
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    folder: Path
    title: str = ""
    parts: int | None = None

    @property
    def name(self) -> str:
        """What is trained, as it is said."""
        return self.title or self.job.name_of(self.method)

    @property
    def training(self) -> Training:
        """The recipe's, in as many parts as this one's, and as the method can be trained."""
        training = self.job.recipe.training
        if self.parts is not None:
            training = replace(training, gradient_accumulation_steps=self.parts)
        if training.extra.get(RECOMPUTED) and not self.method.recomputes:
            training = replace(training, extra={**training.extra, RECOMPUTED: False})
        return training

    @property
    def rows_together(self) -> int:
        """Rows that are computed at once."""
        return rows_together(self.training)

    def in_more_parts(self) -> "MethodTraining | None":
        """The same with at most half as many rows at once; None where it is one already."""
        whole = self.training.batch_size
        fewer = [rows for rows in range(1, self.rows_together // 2 + 1) if whole % rows == 0]
        return replace(self, parts=whole // max(fewer)) if fewer else None

    def attached(self) -> nn.Module:
        """The base with the method attached, ready to be trained.

        Raises:
            MethodError, UserError: it can't be attached with these settings.
        """
        tell(BEGINS)
        if self.job.recipe.training.extra.get(RECOMPUTED) and not self.method.recomputes:
            logger.warning("%s keeps its activations, as it can't be trained with %s", self.name, RECOMPUTED)
        job, method = self.job, self.method
        bits, settings, split = job.precision(method).trained_bits, job.settings(method, self.settings), fsdp()

        def attached(on_host: bool) -> nn.Module:
            base = job.head.load(job.checkpoint.path, bits, seed=self.seed, training=True, on_host=on_host)
            return attach(base, method, settings, job.typical_ids, self.seed, job.steps)

        if split is None:
            return attached(on_host=False)
        with in_turn():  # one process at a time holds all weights
            model = attached(on_host=True)
            split_frozen(model, split)
        return model

    def trained(self, model: nn.Module, limit: Limit, callbacks: Sequence[TrainerCallback] = ()) -> Trained:
        """Train what was `attached`; see `workbench.training.train`.

        Args:
            limit: what ends the training before its last step.

        Raises:
            TrainingMemoryError: there is no memory for its rows.
        """
        job, method = self.job, self.method
        precision = job.precision(method)
        with together(), _memory_told(self.rows_together):
            trained = train(
                model,
                job.renderer.tokenizer,
                job.rows,
                self.training,
                job.learning_rate(method, self.settings),
                autocast=precision.autocast,
                folder=self.folder,
                seed=self.seed,
                title=self.name,
                driver=method.driver(model) if method.driver else None,
                limit=limit,
                kept_in=Place(
                    job.kept or job.data.store.folder,
                    f"{job.data.content}.{job.rows.objective.name}.{precision.trained_bits}",
                ),
                callbacks=callbacks,
            )
        if self.rows_together == rows_together(job.recipe.training):
            return trained
        said = f"memory was short: it was trained with {self.rows_together} rows at once, to the same loss"
        return replace(trained, warning="; ".join(filter(None, (trained.warning, said))))

    def take_part(self) -> None:
        """Train it together with the process that carries out the run, and keep nothing.

        Raises:
            MethodError: it could not be attached, or trained to its end, here or elsewhere.
        """
        with together():
            model = self.attached()
        self.trained(model, Limit())
        del model
        release_memory()
