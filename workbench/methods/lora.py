"""Low-rank updates of the weight matrices."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.methods.merging import merged
from workbench.methods.method import Attachment, Driver, Method
from workbench.methods.space import Range

if TYPE_CHECKING:
    from torch import nn


def _lora(attachment: Attachment, settings: Mapping[str, Any]) -> "nn.Module":
    from peft import LoraConfig, get_peft_model

    return get_peft_model(attachment.model, LoraConfig(task_type=attachment.task_type, **settings))


def _dora(attachment: Attachment, settings: Mapping[str, Any]) -> "nn.Module":
    from workbench.methods.peft_layers.dora import with_exact_norms

    return with_exact_norms(_lora(attachment, settings), begins=True)


def _adalora(attachment: Attachment, settings: Mapping[str, Any]) -> "nn.Module":
    """Attach AdaLoRA, its schedule spread over the training.

    Like the paper's runs, it begins to take ranks away after a tenth of the steps, and leaves the last part of the
    training, here four tenths, to the ranks that remain.
    """
    from peft import AdaLoraConfig, get_peft_model

    from workbench.methods.peft_layers.precision import keep_precision

    steps = attachment.steps
    schedule = {"total_step": steps, "tinit": steps // 10, "tfinal": 4 * steps // 10, "deltaT": max(1, steps // 100)}
    config = AdaLoraConfig(task_type=attachment.task_type, **{**schedule, **settings})
    if config.total_step != steps:
        raise ValueError(f"total_step {config.total_step}: the training has {steps} steps, and total_step follows it")
    if config.init_r <= config.target_r:
        raise ValueError(f"init_r {config.init_r} must be above target_r {config.target_r}: ranks are taken away")
    return keep_precision(get_peft_model(attachment.model, config))


def _rank_schedule(model: "nn.Module") -> Driver:
    from workbench.methods.peft_layers.adalora import RankSchedule

    return RankSchedule(model)


RATE = Range(low=1e-4, high=1e-2)
# An update is scaled by lora_alpha / r, which stays what it is; rsLoRA's lora_alpha / sqrt(r) is meant for every r.
RANK = Range(low=4, high=64, whole=True, along=("lora_alpha",))
EVERY_LINEAR: Mapping[str, Any] = {"lora_dropout": 0.0, "target_modules": "all-linear"}

METHODS = (
    Method(
        name="lora",
        summary="a low-rank update beside every linear layer",
        paper="Hu et al. 2021, arXiv:2106.09685",
        learning_rate=1e-3,
        attach=_lora,
        settings={**EVERY_LINEAR, "r": 16, "lora_alpha": 32},
        search_space={"learning_rate": RATE, "r": RANK},
        merge=merged,
    ),
    Method(
        name="rslora",
        summary="a low-rank update scaled by the root of its rank",
        paper="Kalajdzievski 2023, arXiv:2312.03732",
        learning_rate=1e-3,
        attach=_lora,
        settings={**EVERY_LINEAR, "r": 16, "lora_alpha": 8, "use_rslora": True},
        search_space={"learning_rate": RATE, "r": Range(low=4, high=64, whole=True)},
        merge=merged,
    ),
    Method(
        name="dora",
        summary="a low-rank update of the direction of every weight, and its length",
        paper="Liu et al. 2024, arXiv:2402.09353",
        learning_rate=1e-3,
        attach=_dora,
        settings={**EVERY_LINEAR, "r": 16, "lora_alpha": 32, "use_dora": True},
        search_space={"learning_rate": RATE, "r": RANK},
        merge=merged,
    ),
    Method(
        name="adalora",
        summary="low-rank updates whose ranks go where they matter most",
        paper="Zhang et al. 2023, arXiv:2303.10512",
        learning_rate=2e-3,
        attach=_adalora,
        settings={**EVERY_LINEAR, "init_r": 24, "target_r": 16, "lora_alpha": 32},
        search_space={
            "learning_rate": Range(low=2e-4, high=2e-2),
            "target_r": Range(low=4, high=64, whole=True, along=("init_r", "lora_alpha")),
        },
        driver=_rank_schedule,
        merge=merged,
    ),
)
