"""A method that is to be trained on the rows of a job: by this process, or by all that train together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback

from workbench.methods import Method
from workbench.models import attach, release_memory, split_frozen
from workbench.processes import fsdp, in_turn, tell, together
from workbench.run.prepare import Job
from workbench.training import Limit, Place, Trained, train

# What processes that train together are told when the training of the task that they were told before begins.
BEGINS = "it begins"


@dataclass(frozen=True, kw_only=True)
class MethodTraining:
    """What a training hangs on.

    Attributes:
        job: looked at for the head that is trained.
        seed: of new weights and the order of the examples.
        settings: before those of the recipe; `learning_rate` is one of them.
        folder: for the training's state.
        title: in front of the progress bar; the entry's name where there is none.
    """

    job: Job
    method: Method
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    folder: Path
    title: str = ""

    def attached(self) -> nn.Module:
        """The base with the method attached, ready to be trained.

        Raises:
            MethodError, UserError: it can't be attached with these settings.
        """
        tell(BEGINS)
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
        """
        job, method = self.job, self.method
        precision = job.precision(method)
        with together():
            return train(
                model,
                job.renderer.tokenizer,
                job.rows,
                job.recipe.training,
                job.learning_rate(method, self.settings),
                autocast=precision.autocast,
                folder=self.folder,
                seed=self.seed,
                title=self.title or job.name_of(method),
                driver=method.driver(model) if method.driver else None,
                limit=limit,
                kept_in=Place(
                    job.kept or job.data.store.folder,
                    f"{job.data.content}.{job.rows.objective.name}.{precision.trained_bits}",
                ),
                callbacks=callbacks,
            )

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
