"""Bottleneck adapters, with the tuner in `workbench.methods.bottleneck`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.methods.method import Attachment, Method

if TYPE_CHECKING:
    from torch import nn


def _bottleneck(attachment: Attachment, settings: Mapping[str, Any]) -> "nn.Module":
    from peft import get_peft_model

    from workbench.methods.bottleneck import BottleneckConfig

    return get_peft_model(attachment.model, BottleneckConfig(task_type="CAUSAL_LM", **settings))


METHODS = (
    Method(
        name="houlsby",
        summary="a bottleneck after each attention and each feed-forward block",
        paper="Houlsby et al. 2019, arXiv:1902.00751",
        learning_rate=1e-3,
        attach=_bottleneck,
        settings={"bottleneck_size": 64, "activation": "gelu", "dropout": 0.0},
        no_plain_checkpoint="a bottleneck with an activation in the middle of a block is not a weight of the plain "
        "architecture; load adapter/ with PEFT after importing workbench.methods.bottleneck",
        loads_with="workbench.methods.bottleneck",
    ),
)
