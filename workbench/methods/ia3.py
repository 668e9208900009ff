"""Learned scales of keys, values and inner activations."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.methods.merging import merged
from workbench.methods.method import Attachment, Method
from workbench.methods.space import Range

if TYPE_CHECKING:
    from torch import nn


def _ia3(attachment: Attachment, settings: Mapping[str, Any]) -> "nn.Module":
    """Attach IA3 where the model's structure shows keys, values and the inner activations of feed-forward blocks.

    PEFT has lists of names by architecture, which miss GPT-1 and gpt-oss.
    """
    from peft import IA3Config, get_peft_model

    from workbench.methods.bottleneck.structure import keys_and_values, last_projections
    from workbench.methods.peft_layers.precision import keep_precision

    if not settings.get("target_modules"):
        inner = last_projections(attachment.model)
        found = {*keys_and_values(attachment.model), *inner}
        settings = {**settings, "target_modules": found, "feedforward_modules": set(inner)}
    return keep_precision(get_peft_model(attachment.model, IA3Config(task_type=attachment.task_type, **settings)))


METHODS = (
    Method(
        name="ia3",
        summary="a scale for each number of keys, values and inner activations",
        paper="Liu et al. 2022, arXiv:2205.05638",
        learning_rate=1e-2,
        attach=_ia3,
        search_space={"learning_rate": Range(low=1e-3, high=1e-1)},
        merge=merged,
    ),
)
