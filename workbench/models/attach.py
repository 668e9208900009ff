"""Attaching a method to a base."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.data.labels import Labels
from workbench.errors import UserError
from workbench.methods import Attachment, Mergeability, Method
from workbench.models.head import head_name, head_of, task_type
from workbench.models.load import head_settings

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a model is.

    Attributes:
        trainable: parameters that are trained, virtual tokens included.
        total: all parameters; a quantized weight counts with the number of values it stands for.
    """

    trainable: int
    total: int


def attach(
    model: "PreTrainedModel",
    method: Method,
    settings: Mapping[str, Any],
    typical_ids: list[int],
    seed: int,
    steps: int = 1,
) -> "nn.Module":
    """Attach `method` to `model`, its new weights drawn from `seed`.

    Args:
        settings: the recipe's, which replace the method's own.
        typical_ids: tokens of training prompts, for methods that start from real text.
        steps: optimizer steps of the training that is to follow.

    Raises:
        UserError: a model that the method can't be used with, a setting that it does not know, or a value it does
            not take.
    """
    from transformers import set_seed

    if method.unsupported and (reason := method.unsupported(model)):
        raise UserError(f"{method.name} can't be used here: {reason}; leave it out with --methods")
    set_seed(seed)
    attachment = Attachment(model=model, typical_ids=typical_ids, steps=steps, task_type=task_type(model))
    try:
        attached = method.attach(attachment, {**method.settings, **settings})
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{method.name} with {dict(settings) or 'its own settings'}: {error}") from error
    if method.trains and head_name(model) and not any(p.requires_grad for p in head_of(attached).parameters()):
        raise UserError(f"{method.name} does not train a head of classes: see `Attachment.task_type`")
    return attached.eval()


def check_attachment(
    path: Path,
    method: Method,
    settings: Mapping[str, Any],
    typical_ids: list[int],
    steps: int = 1,
    labels: Labels | None = None,
) -> Mergeability:
    """Attach `method` to the model in the folder `path` without its weights, to find early what is wrong.

    Args:
        labels: of a head of classes; None for a model that writes.

    Returns:
        Whether the result can become a merged checkpoint.

    Raises:
        UserError: as `attach`.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    kind: Any = AutoModelForCausalLM
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    if labels is not None:
        kind, config = AutoModelForSequenceClassification, head_settings(path, labels, None)["config"]
    with torch.device("meta"):
        model = kind.from_config(config, trust_remote_code=False)
        attached = attach(model.requires_grad_(False), method, settings, typical_ids, seed=0, steps=steps)
        return method.mergeability(attached)


def size(model: "nn.Module") -> Size:
    """Count the parameters of an attached model."""
    trainable = total = 0
    for parameter in model.parameters():
        # bitsandbytes packs two 4-bit values into a byte, and keeps the shape they stand for.
        shape = getattr(getattr(parameter, "quant_state", None), "shape", None)
        count = shape.numel() if shape is not None else parameter.numel()
        total += count
        trainable += count if parameter.requires_grad else 0
    return Size(trainable=trainable, total=total)
