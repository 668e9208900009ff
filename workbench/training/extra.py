"""What a recipe may hand on to `trl.SFTConfig`."""

import difflib
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import torch
from transformers import SchedulerType, Trainer, get_scheduler
from transformers.integrations import get_available_reporting_integrations
from transformers.training_args import OptimizerNames
from trl import SFTConfig

from workbench.errors import UserError, unknown
from workbench.recipe import Training
from workbench.training.configuration import configuration

# Fields of SFTConfig that a recipe says by another name; those about rows and labels, which are made already, have no
# effect.
RENAMED = {
    "per_device_train_batch_size": "batch_size",
    "warmup_ratio": "warmup_steps",
    "eval_steps": "validations",
}
# Fields that a run sets for all methods alike, and where their reader would look instead.
OF_THE_RUN = {
    "seed": "a run has it from --seed, and --seeds makes several",
    "data_seed": "a run has it from --seed, and --seeds makes several",
    "output_dir": "a run has it from --out",
    "logging_dir": "TensorBoard's logs are in training/logs/ of each method",
    "resume_from_checkpoint": "a run goes on with --resume",
    "load_best_model_at_end": "the best state is always put back",
    **dict.fromkeys(
        ("metric_for_best_model", "greater_is_better"), "the best state is the one of the lowest validation loss"
    ),
    **dict.fromkeys(
        ("eval_strategy", "eval_delay", "save_strategy", "save_steps", "save_total_limit"),
        "states are measured and kept as often as Training's own `validations` says",
    ),
    **dict.fromkeys(("fp16", "bf16", "tf32"), "what is computed in which precision hangs on --bits"),
    **dict.fromkeys(
        ("chat_template_path", "eos_token", "pad_token"), "the chat template and its tokens are the checkpoint's"
    ),
    **dict.fromkeys(
        ("label_smoothing_factor", "prediction_loss_only"), "the loss is that of Training's own `objective`"
    ),
    **dict.fromkeys(("dataset_kwargs", "remove_unused_columns", "label_names"), "the rows are made already"),
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), "a run does what its recipe says"),
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
    """See that `extra` names fields of `SFTConfig` which do what its reader would expect, and all values are known.

    Raises:
        UserError: it doesn't; or a schedule, an optimizer or a tracker is not known, or not installed.
    """
    _require_fields(training)
    if training.lr_scheduler_type not in (schedules := [str(one.value) for one in SchedulerType]):
        raise unknown("lr_scheduler_type", training.lr_scheduler_type, schedules)
    optimizers = [str(one.value) for one in OptimizerNames]
    if (optimizer_name := training.extra.get("optim", optimizers[0])) not in optimizers:
        raise unknown("optimizer (optim)", str(optimizer_name), optimizers)
    _require_trackers(training.extra.get("report_to"))
    with tempfile.TemporaryDirectory() as folder:
        try:
            config = configuration(training, 1, 1e-3, False, Path(folder), 0, linear_output=True)
            Trainer.get_optimizer_cls_and_kwargs(config)
            optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
            more = config.lr_scheduler_kwargs if isinstance(config.lr_scheduler_kwargs, dict) else None
            get_scheduler(config.lr_scheduler_type, optimizer, 0, 2, scheduler_specific_kwargs=more)
        except (ValueError, TypeError, ImportError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"Training: {first}") from error


def _require_trackers(report_to: str | Sequence[str] | None) -> None:
    wanted = [report_to] if isinstance(report_to, str) else list(report_to or ())
    here = get_available_reporting_integrations()
    for name in wanted:
        if name not in ("none", "all", *here):
            raise UserError(
                f"Training: extra's report_to names {name!r}, which is not installed here; installed: "
                f"{', '.join(here) or 'none'}"
            )


def _require_fields(training: Training) -> None:
    known = {field.name for field in fields(SFTConfig)}
    own = RENAMED | {field.name: field.name for field in fields(Training)}
    for name in training.extra:
        if name in own:
            raise UserError(f"Training: extra names {name!r}, which is Training's own `{own[name]}`")
        if name in OF_THE_RUN:
            raise UserError(f"Training: extra names {name!r}, which would do harm or nothing: {OF_THE_RUN[name]}")
        if name in WITHOUT_EFFECT:
            raise UserError(
                f"Training: extra names {name!r}, which has no effect: rows are of like length, the turns of one "
                "conversation share one, and only completions have labels"
            )
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            guess = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"Training: extra names {name!r}, which is no field of trl.SFTConfig{guess}")
