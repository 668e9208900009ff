"""What the trainer does beside training: keep the best state, stop early or in time, refuse NaN, show progress."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from workbench.console import progress_bar
from workbench.errors import MethodError
from workbench.methods import Driver
from workbench.processes import from_first, leads
from workbench.training.checkpoints import load_trained_state, save_whole, trained_state
from workbench.training.trackers import Tracking

if TYPE_CHECKING:
    from tqdm import tqdm


class BestState(TrainerCallback):
    """Keeps the trained weights of the lowest validation loss, and stops after `patience` validations without one.

    Only trainable parameters are kept, in a file of safetensors, which works for every method: Transformers' own
    `load_best_model_at_end` fails for prompt learning. How long the loss has not improved is read off the log,
    so that a resumed training stops where the uninterrupted one does.
    """

    def __init__(self, file: Path, patience: int, settled: int = 0) -> None:
        """`settled`: validations before this step don't count."""
        self.file = file
        self.patience = patience
        self.settled = settled

    def losses(self, state: TrainerState) -> list[float]:
        """The validation losses that count."""
        return [e["eval_loss"] for e in state.log_history if "eval_loss" in e and e["step"] >= self.settled]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Validate and save at the last step too."""
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = control.should_log = True

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep the state if it is the best so far; stop if there was none for too long."""
        newest = next(entry["eval_loss"] for entry in reversed(state.log_history) if "eval_loss" in entry)
        if not math.isfinite(newest):
            raise MethodError(f"the validation loss is {newest} at step {state.global_step}: lower the learning rate")
        losses = self.losses(state)
        if not losses:
            return
        best = losses.index(min(losses))
        if best == len(losses) - 1:
            if leads():
                save_whole(trained_state(kwargs["model"]), self.file)
        elif self.patience and len(losses) - 1 - best >= self.patience:
            control.should_training_stop = True

    def restore(self, model: torch.nn.Module) -> None:
        """Put the best state back into `model`."""
        load_trained_state(model, load_file(self.file))


class Watched(TrainerCallback):
    """Stops a training when somebody who sees its validation losses says so.

    Args:
        watch: given the losses so far, optimizer step -> loss, whether it is to be stopped behind the last one.
    """

    def __init__(self, watch: Callable[[Mapping[int, float]], bool]) -> None:
        self.watch = watch

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask whether it goes on."""
        if self.watch({int(entry["step"]): entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry}):
            control.should_training_stop = True


class Driven(TrainerCallback):
    """Calls what a method does of its own at each step."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The gradients are complete and clipped."""
        self.driver.before_update()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The update was made; the Trainer counts it after this call."""
        self.driver.after_update(state.global_step + 1)


class FiniteLoss(TrainerCallback):
    """Ends a method whose loss is no number: what follows could only be noise."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Raise for a loss or a gradient norm that is NaN or infinite."""
        for name in ("loss", "grad_norm"):
            value = (logs or {}).get(name)
            if value is not None and not math.isfinite(value):
                raise MethodError(f"{name} is {value} at step {state.global_step}: lower the learning rate")


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What ends a training before its last step, so that a run ends in time.

    Attributes:
        stop_at: when, by `time.perf_counter`; None for never.
        most_steps: optimizer steps, of which another method could not make more; None for no limit.
    """

    stop_at: float | None = None
    most_steps: int | None = None

    def reached(self, step: int) -> bool:
        """Whether the training ends behind this step."""
        late = self.stop_at is not None and time.perf_counter() >= self.stop_at
        return late or (self.most_steps is not None and step >= self.most_steps)


class Deadline(TrainerCallback):
    """Ends a training whose time is over, validated and saved.

    Args:
        limit: what ends it.
        settled: steps that have to be made in any case, since no earlier state can be kept.
    """

    def __init__(self, limit: Limit, settled: int = 0) -> None:
        self.limit = limit
        self.settled = settled
        self.stopped_at: int | None = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop behind this step."""
        if self.settled <= state.global_step < state.max_steps and self.limit.reached(state.global_step):
            self.stopped_at = state.global_step
            control.should_training_stop = control.should_evaluate = control.should_save = control.should_log = True


class Agreed(TrainerCallback):
    """Several processes do at every step what the first one's callbacks say; clocks differ."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Validate, save or stop behind a step together."""
        self._agree(control)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop behind a validation together."""
        self._agree(control)

    def _agree(self, control: TrainerControl) -> None:
        vars(control).update(from_first(vars(control)))


class Progress(TrainerCallback):
    """One bar with the time left, the running loss and the last validation loss, on stderr."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.bar: tqdm[Any] | None = None
        self.shown: dict[str, str] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar, at the step from which a resumed training goes on."""
        if not leads():
            return
        self.bar = progress_bar(self.title, total=state.max_steps, initial=state.global_step, unit="step")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the newest losses."""
        for key, label in (("loss", "loss"), ("eval_loss", "validation")):
            if logs and key in logs:
                self.shown[label] = f"{logs[key]:.3f}"
        if self.bar is not None:
            self.bar.set_postfix(self.shown, refresh=False)

    def close(self) -> None:
        """Leave the bar as it is, whatever ended the training."""
        if self.bar is not None:
            self.bar.close()


class Told(TrainerCallback):
    """Tells trackers of losses and rates, under the names that transformers gives them in TensorBoard."""

    NAMES: ClassVar = {
        "loss": "train/loss",
        "learning_rate": "train/learning_rate",
        "grad_norm": "train/grad_norm",
        "eval_loss": "eval/loss",
    }

    def __init__(self, tracking: Tracking) -> None:
        self.tracking = tracking

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Tell what was logged."""
        values = {name: float(logs[key]) for key, name in self.NAMES.items() if logs and key in logs}
        if values:
            self.tracking.log(values, state.global_step)
