"""What a recipe says of a training, as a configuration of TRL's `SFTTrainer`."""

import math
from pathlib import Path

from trl import SFTConfig

from workbench.device import device, on_cpu
from workbench.processes import count
from workbench.recipe import Training

# Batches of training that a validation computes as one, where it needs no logits.
VALIDATED_TOGETHER = 4


class OneDeviceConfig(SFTConfig):
    """The model is on one device, whatever others the machine has."""

    @property
    def n_gpu(self) -> int:
        """Devices among which the Trainer would otherwise part each batch."""
        return min(1, super().n_gpu)


def steps_in(training: Training, rows: int) -> tuple[int, int]:
    """Optimizer steps of the whole training, and steps between two validations."""
    steps = max(1, math.ceil(training.num_train_epochs * math.ceil(rows / training.batch_size)))
    steps = min(steps, training.max_steps or steps)
    return steps, max(1, math.ceil(steps / training.validations))


def rows_together(training: Training) -> int:
    """Rows of a training that are computed at once, by all processes together."""
    return max(1, training.batch_size // _parts(training))


def _parts(training: Training) -> int:
    """Batches of an optimizer step; as many fewer as there are processes that share out each."""
    parts = training.gradient_accumulation_steps
    return parts // math.gcd(parts, count())


def configuration(
    training: Training,
    rows: int,
    learning_rate: float,
    autocast: bool,
    folder: Path,
    seed: int,
    linear_output: bool,
) -> SFTConfig:
    """The configuration of a training.

    Args:
        rows: number of rows of the training split.
        linear_output: `has_linear_output(model)`: without gradients and without logits there is room for larger
            batches in a validation.
        learning_rate, autocast, folder, seed: see `train`.
    """
    steps, every = steps_in(training, rows)
    ours = {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": rows_together(training),
        "per_device_eval_batch_size": rows_together(training) * (VALIDATED_TOGETHER if linear_output else 1),
        "gradient_accumulation_steps": _parts(training),
        "learning_rate": learning_rate,
        "lr_scheduler_type": training.lr_scheduler_type,
        # The rate is 0 in the first step of a warm-up, and something has to be learned after it.
        "warmup_steps": min(math.ceil(training.warmup_steps * steps), steps - 1),
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "seed": seed,
        "train_sampling_strategy": "group_by_length",
        "bf16": autocast,
        "use_cpu": on_cpu(),
        # Stock TRL recomputes activations and so trains at two thirds of the speed; prefix tuning can't do it at all.
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "eval_strategy": "steps",
        "eval_steps": every,
        "save_strategy": "steps",
        "save_steps": every,
        "save_total_limit": None,  # `seal` removes older ones, when a new one is whole
        "prediction_loss_only": True,
        # The loss is the objective's alone: a mixture of experts need not compute how evenly it uses them.
        "router_aux_loss_coef": 0.0,
        "dataloader_pin_memory": device().type == "cuda",
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "remove_unused_columns": False,
        "max_length": None,
        "report_to": "none",
        "disable_tqdm": True,
    }
    return OneDeviceConfig(**{**ours, **training.extra})
