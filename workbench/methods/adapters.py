"""Bottleneck adapters, with the tuner in `workbench.methods.bottleneck`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.methods.merging import merged
from workbench.methods.method import Attachment, Method, NotMergeable
from workbench.methods.space import Range

if TYPE_CHECKING:
    from torch import nn

RATE = Range(low=1e-4, high=1e-2)

BEHIND_A_BLOCK = NotMergeable(
    "a bottleneck behind a block, with an activation in it, is no weight of the plain architecture"
)


def _bottleneck(attachment: Attachment, settings: Mapping[str, Any]) -> "nn.Module":
    from peft import get_peft_model

    from workbench.methods.bottleneck import BottleneckConfig

    return get_peft_model(attachment.model, BottleneckConfig(task_type=attachment.task_type, **settings))


def _why_not_wider(model: "nn.Module") -> str | None:
    reason: str | None = model.base_model.why_not_merged()  # type: ignore[operator,union-attr]
    return reason


METHODS = (
    Method(
        name="houlsby",
        summary="a bottleneck after each attention and each feed-forward block",
        paper="Houlsby et al. 2019, arXiv:1902.00751",
        learning_rate=1e-3,
        attach=_bottleneck,
        settings={"bottleneck_size": 64, "activation": "gelu", "dropout": 0.0},
        search_space={"learning_rate": RATE, "bottleneck_size": Range(low=16, high=256, whole=True)},
        merge=BEHIND_A_BLOCK,
        loads_with="workbench.methods.bottleneck",
    ),
    Method(
        name="pfeiffer",
        summary="a bottleneck after each feed-forward block",
        paper="Pfeiffer et al. 2021, arXiv:2005.00247",
        learning_rate=1e-3,
        attach=_bottleneck,
        settings={"bottleneck_size": 128, "activation": "gelu", "dropout": 0.0, "places": ["feed_forward"]},
        search_space={"learning_rate": RATE, "bottleneck_size": Range(low=32, high=512, whole=True)},
        merge=BEHIND_A_BLOCK,
        loads_with="workbench.methods.bottleneck",
    ),
    Method(
        name="parallel",
        summary="a bottleneck beside each feed-forward block, of the block's own kind",
        paper="He et al. 2022, arXiv:2110.04366",
        learning_rate=1e-3,
        attach=_bottleneck,
        settings={"bottleneck_size": 128, "scale": 4.0, "dropout": 0.0, "places": ["feed_forward"], "parallel": True},
        search_space={"learning_rate": RATE, "bottleneck_size": Range(low=32, high=512, whole=True)},
        merge=merged,
        merge_obstacle=_why_not_wider,
        loads_with="workbench.methods.bottleneck",
    ),
)
