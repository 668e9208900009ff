"""What the trainer does beside training: keep the best state, stop early, refuse NaN, show progress."""

import math
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from workbench.errors import MethodError


class BestState(TrainerCallback):
    """Keeps the trained weights of the lowest validation loss, and stops after `patience` validations without one.

    Only trainable parameters are kept, in a file of safetensors, which works for every method: Transformers' own
    `load_best_model_at_end` fails for prompt learning. How long the loss has not improved is read off the log,
    so that a resumed training stops where the uninterrupted one does.
    """

    def __init__(self, file: Path, patience: int) -> None:
        self.file = file
        self.patience = patience

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Validate and save at the last step too."""
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = control.should_log = True

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep the state if it is the best so far; stop if there was none for too long."""
        losses = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]
        if not math.isfinite(losses[-1]):
            raise MethodError(
                f"the validation loss is {losses[-1]} at step {state.global_step}: lower the learning rate"
            )
        best = losses.index(min(losses))
        if best == len(losses) - 1:
            self._keep(kwargs["model"])
        elif self.patience and len(losses) - 1 - best >= self.patience:
            control.should_training_stop = True

    def _keep(self, model: torch.nn.Module) -> None:
        state = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}
        aside = self.file.with_suffix(".part")
        save_file(state, aside)
        aside.replace(self.file)

    def restore(self, model: torch.nn.Module) -> None:
        """Put the best state back into `model`."""
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, value in load_file(self.file).items():
                parameters[name].copy_(value)


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

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()


def progress_bar(title: str, total: int, unit: str, initial: int = 0) -> "tqdm[Any]":
    """A bar on stderr with the time left; in a log file it prints a line every ten seconds at most."""
    return tqdm(
        total=total,
        initial=initial,
        desc=title,
        unit=unit,
        file=sys.stderr,
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 10,
    )
