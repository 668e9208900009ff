"""A method that is to be trained on the rows of a job: by this process, or by all that train together."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from torch import nn
from transformers import TrainerCallback

from workbench.methods import Method
from workbench.models import attach, release_memory, split_frozen
from workbench.processes import count, fsdp, in_turn, tell, together
from workbench.recipe import Training
from workbench.run.out_of_memory import TrainingMemoryError, memory_told
from workbench.run.prepare import Job
from workbench.training import Limit, Place, Trained, train
from workbench.training.configuration import rows_together

T = TypeVar("T")
logger = logging.getLogger(__name__)

# What processes that train together are told when the training of the task that they were told before begins.
BEGINS = "it begins"
# A setting of the Trainer's that some methods can't be trained with.
RECOMPUTED = "gradient_checkpointing"


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
        with together(), memory_told(self.rows_together):
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
