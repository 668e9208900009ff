"""Low-rank updates of the weight matrices."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.methods.method import Attachment, Method

if TYPE_CHECKING:
    from torch import nn


def _lora(attachment: Attachment, settings: Mapping[str, Any]) -> "nn.Module":
    from peft import LoraConfig, get_peft_model

    return get_peft_model(attachment.model, LoraConfig(task_type="CAUSAL_LM", **settings))


METHODS = (
    Method(
        name="lora",
        summary="a low-rank update beside every linear layer",
        paper="Hu et al. 2021, arXiv:2106.09685",
        learning_rate=1e-3,
        attach=_lora,
        settings={"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"},
        merges=True,
    ),
)
