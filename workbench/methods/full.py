"""The two ends of the scale: nothing trained, everything trained."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.methods.merging import as_it_is
from workbench.methods.method import Attachment, Method, NotMergeable
from workbench.methods.space import Range

if TYPE_CHECKING:
    from torch import nn


def _as_it_is(attachment: Attachment, settings: Mapping[str, Any]) -> "nn.Module":
    _require_none(settings)
    return attachment.model


def _all_weights(attachment: Attachment, settings: Mapping[str, Any]) -> "nn.Module":
    _require_none(settings)
    return attachment.model.requires_grad_(True)


def _require_none(settings: Mapping[str, Any]) -> None:
    if settings:
        raise TypeError(f"there is nothing to set beside the learning rate, and so no {', '.join(settings)}")


METHODS = (
    Method(
        name="untuned",
        summary="the checkpoint as it is",
        paper="none",
        learning_rate=None,
        attach=_as_it_is,
        merge=NotMergeable("nothing was trained: the checkpoint itself is the plain checkpoint"),
    ),
    Method(
        name="full",
        summary="every weight of the model",
        paper="none",
        learning_rate=5e-5,
        attach=_all_weights,
        search_space={"learning_rate": Range(low=5e-6, high=5e-4)},
        trains_base=True,
        merge=as_it_is,
    ),
)
