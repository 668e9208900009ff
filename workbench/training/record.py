"""How a training went."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import TrainerState


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training took and how it went.

    Attributes:
        seconds: wall-clock time, validations included; of all parts together, if it was resumed.
        tokens_per_second: tokens of the rows trained on, without padding, over the time without validations.
        steps: optimizer steps that were made.
        learning_rate: the peak.
        validation_loss: mean over the items of the validation rows, of the best state, which is the one the model has
            now. Of supervised fine-tuning in nats per token.
        checked_loss: of that state on the first `CHECKED` validation examples, computed as training computes. What
            is saved and loaded again must have it, too.
        curve: `{"step", "loss"}` and `{"step", "validation_loss"}`, in order.
        stopped_at: the step behind which it was ended before its last one; None for one that was not.
        warning: what a reader of its scores should know; else empty.
        resumed: it was interrupted, and gone on with from its last checkpoint.
    """

    seconds: float
    tokens_per_second: float
    steps: int
    learning_rate: float
    validation_loss: float
    checked_loss: float
    curve: Sequence[Mapping[str, float]]
    stopped_at: int | None = None
    warning: str = ""
    resumed: bool = False


def record(
    state: TrainerState,
    *,
    seconds: float,
    resumed: bool,
    tokens_per_step: float,
    learning_rate: float,
    validation_loss: float,
    checked_loss: float,
) -> Trained:
    """The record of a training.

    Args:
        state: of the Trainer at the end; its log has the losses of the parts before an interruption, too.
        seconds: wall-clock time of all parts, validations included.
        resumed: there was more than one.
        tokens_per_step: tokens of the rows of an average optimizer step.
        learning_rate, validation_loss, checked_loss: see `Trained`.
    """
    log = state.log_history
    validating = sum(entry["eval_runtime"] for entry in log if "eval_runtime" in entry)
    return Trained(
        seconds=seconds,
        tokens_per_second=tokens_per_step * state.global_step / max(seconds - validating, 1e-9),
        steps=state.global_step,
        learning_rate=learning_rate,
        validation_loss=validation_loss,
        checked_loss=checked_loss,
        resumed=resumed,
        curve=[
            {"step": entry["step"], name: entry[key]}
            for entry in log
            for key, name in (("loss", "loss"), ("eval_loss", "validation_loss"))
            if key in entry
        ],
    )
