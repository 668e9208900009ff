"""What a recipe may hand on to `trl.SFTConfig`."""

import difflib
from dataclasses import fields

from workbench.errors import UserError
from workbench.recipe import Training

# Fields of SFTConfig that a recipe says by another name, and those about rows and labels, which are made already.
RENAMED = {
    "num_train_epochs": "epochs",
    "max_steps": "epochs",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "accumulation",
    "lr_scheduler_type": "schedule",
    "warmup_ratio": "warmup",
    "warmup_steps": "warmup",
    "eval_steps": "validations",
    "learning_rate": "learning_rate",
    "weight_decay": "weight_decay",
    "max_grad_norm": "max_grad_norm",
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
    from trl import SFTConfig  # not before trainer.py has said that nothing reports to a hub

    known = {field.name for field in fields(SFTConfig)}
    for name in training.extra:
        if name in RENAMED:
            raise UserError(f"Training: extra names {name!r}, which is Training's own `{RENAMED[name]}`")
        if name in WITHOUT_EFFECT:
            raise UserError(
                f"Training: extra names {name!r}, which has no effect: rows are of like length, the turns of one "
                "conversation share one, and only completions have labels"
            )
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            guess = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"Training: extra names {name!r}, which is no field of trl.SFTConfig{guess}")
