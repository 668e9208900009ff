"""What a recipe may hand on to `trl.SFTConfig`."""

import difflib
from dataclasses import fields

from trl import SFTConfig

from workbench.errors import UserError
from workbench.recipe import Training

# Fields of SFTConfig that a recipe says by another name; those about rows and labels, which are made already, have no
# effect.
RENAMED = {
    "per_device_train_batch_size": "batch_size",
    "warmup_ratio": "warmup_steps",
    "eval_steps": "validations",
}
WITHOUT_EFFECT = (
    "assistant_only_loss",
    "completion_only_loss",
    "dataset_text_field",
    "eval_packing",
    "loss_type",
    "max_length",
    "packing",
    "packing_strategy",
    "padding_free",
)


def check_extra(training: Training) -> None:
    """See that `extra` names fields of `SFTConfig` which do what its reader would expect.

    Raises:
        UserError: it doesn't.
    """
    known = {field.name for field in fields(SFTConfig)}
    own = RENAMED | {field.name: field.name for field in fields(Training)}
    for name in training.extra:
        if name in own:
            raise UserError(f"Training: extra names {name!r}, which is Training's own `{own[name]}`")
        if name in WITHOUT_EFFECT:
            raise UserError(
                f"Training: extra names {name!r}, which has no effect: rows are of like length, the turns of one "
                "conversation share one, and only completions have labels"
            )
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            guess = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"Training: extra names {name!r}, which is no field of trl.SFTConfig{guess}")
