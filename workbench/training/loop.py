"""Train an attached model on rows of an objective."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft.helpers import disable_input_dtype_casting
from torch import nn
from transformers import TrainerCallback

from workbench.errors import MethodError
from workbench.methods import Driver
from workbench.models import fast_training, has_linear_output, keep_memory
from workbench.processes import from_first, leads
from workbench.recipe import Training
from workbench.training.activations import KeptActivations, Place
from workbench.training.callbacks import BestState, Deadline, FiniteLoss, Limit, Progress
from workbench.training.checkpoints import (
    BEST_FILE,
    last_whole_checkpoint,
    load_finished,
    save_finished,
)
from workbench.training.configuration import configuration, rows_together
from workbench.training.inputs import TrainingRows
from workbench.training.plain import COMPARED, marks, plain_losses, require_change, require_plain_loss
from workbench.training.record import Trained, record
from workbench.training.rows import lengths
from workbench.training.trainer import ObjectiveTrainer

NO_LIMIT = Limit()


def train(
    model: nn.Module,
    tokenizer: Any,
    rows: TrainingRows,
    training: Training,
    learning_rate: float,
    autocast: bool,
    folder: Path,
    seed: int,
    title: str,
    driver: Driver | None = None,
    limit: Limit = NO_LIMIT,
    kept_in: Place | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Trained:
    """Train `model` in place and leave it in its best state.

    If `folder` holds checkpoints of an interrupted training, that training goes on, to the same result. Of several
    processes all have to call this: each computes its share of every batch, the first writes files that all must find.

    Args:
        model: its trainable parameters are those with `requires_grad`.
        rows: what is trained on, and for which objective.
        autocast: compute in bfloat16 whatever is kept in float32.
        folder: for checkpoints and the best state.
        seed: of the order of the examples and of dropout.
        title: in front of the progress bar.
        driver: what the method does of its own at each step.
        limit: what ends it before its last step.
        kept_in: where that is kept which frozen layers below all that is trained give for a row; None computes it at
            every step.
        callbacks: of transformers, further ones, called behind those of the training itself; the first process's.

    Raises:
        MethodError: nothing to train, no label, or a loss that is no number.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise MethodError("no trainable parameters: nothing would be learned")
    if finished := from_first(load_finished(folder, model, driver) if leads() else None):
        return finished
    folder.mkdir(parents=True, exist_ok=True)
    linear_output, settled = has_linear_output(model), driver.settled if driver else 0
    best = BestState(folder / BEST_FILE, training.early_stopping_patience, settled)
    deadline, progress = Deadline(limit, settled), Progress(title)
    trainer = ObjectiveTrainer(
        model=model,
        config=configuration(training, len(rows.train), learning_rate, autocast, folder, seed, linear_output),
        tokenizer=tokenizer,
        rows=rows,
        linear_output=linear_output,
        kept=KeptActivations(model, autocast, kept_in, rows),
        callbacks=[deadline, best, FiniteLoss(), progress, *callbacks],
        driver=driver,
    )
    with closing(progress):
        trained = _carry_through(trainer, best, rows, training, autocast)
    trained = _marked(trained, deadline.stopped_at, trainer.state.max_steps)
    if leads():
        save_finished(folder, trained, driver)
    return trained


def _marked(trained: Trained, stopped_at: int | None, steps: int) -> Trained:
    """What was trained, with a warning if it was stopped before its last step."""
    if stopped_at is None:
        return trained
    why = f"its training was stopped at step {stopped_at} of {steps}: the time was over"
    return replace(trained, stopped_at=stopped_at, warning=why)


def _carry_through(
    trainer: ObjectiveTrainer, best: BestState, rows: TrainingRows, training: Training, autocast: bool
) -> Trained:
    """Train from the beginning, or from where it was interrupted, and put the best state back."""
    model = trainer.model
    assert isinstance(model, nn.Module)
    checkpoint: Path | None = from_first(last_whole_checkpoint(best.file.parent) if leads() else None)
    keep_memory()
    examples = rows.checked[:COMPARED]
    plain = plain_losses(trainer, examples)
    with _computing_fast(model, autocast):
        require_plain_loss(trainer, examples, plain)
        before = marks(model)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        seconds = trainer.seconds
        if checkpoint is None:
            require_change(model, before, trainer.state.global_step)
        from_first()  # its file is on the disk
        best.restore(model)
        model.eval()
        with torch.autocast(trainer.args.device.type, torch.bfloat16, enabled=autocast):
            checked_loss = trainer.objective.checked_loss(model, rows.checked, trainer.pad_id, rows_together(training))
    return record(
        trainer.state,
        seconds=seconds,
        resumed=checkpoint is not None,
        tokens_per_step=int(lengths(rows.train).sum()) * training.batch_size / len(rows.train),
        learning_rate=trainer.args.learning_rate,
        validation_loss=min(best.losses(trainer.state)),
        checked_loss=checked_loss,
    )


@contextmanager
def _computing_fast(model: nn.Module, autocast: bool) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(fast_training(model))
        if autocast:
            # Autocast brings inputs and weights together; PEFT's casts of every input to float32 only cost time.
            stack.enter_context(disable_input_dtype_casting(model))
        yield
