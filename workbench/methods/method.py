"""What a method is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """What a method may look at when it attaches.

    Attributes:
        model: the base, its weights frozen.
        typical_ids: token ids of training prompts, one after another, for methods that start from real text.
    """

    model: "PreTrainedModel"
    typical_ids: list[int]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to adapt a model.

    Attributes:
        name: as users write it.
        summary: what it trains, in half a sentence.
        paper: authors, year and arXiv number.
        learning_rate: peak, for AdamW; None for what is not trained.
        settings: its own settings with their defaults, which a recipe may replace.
        attach: makes the model to train. Its trainable parameters are those with `requires_grad`.
        trains_base: the base's own weights are trained, so it can't be held at 8 or 4 bits, and what is saved
            is a whole checkpoint.
        merges: its result can be written into the base's weights (`merge_and_unload` of PEFT).
        no_plain_checkpoint: why it can't become a plain checkpoint, where it can't.
        loads_with: a module to import before PEFT can load its adapter, where PEFT doesn't know it by itself.
    """

    name: str
    summary: str
    paper: str
    learning_rate: float | None
    attach: "Callable[[Attachment, Mapping[str, Any]], nn.Module]"
    settings: Mapping[str, Any] = field(default_factory=dict)
    trains_base: bool = False
    merges: bool = False
    no_plain_checkpoint: str | None = None
    loads_with: str | None = None

    @property
    def trains(self) -> bool:
        """Whether there is anything to train."""
        return self.learning_rate is not None
