"""What a method is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from workbench.methods.space import Range

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """What a method may look at when it attaches.

    Attributes:
        model: the base, its weights frozen.
        typical_ids: token ids of training prompts, one after another, for methods that start from real text.
        steps: optimizer steps of the training that is to follow, for methods with a schedule of their own.
        task_type: what PEFT calls the model's task: with "SEQ_CLS" it trains the model's head along with the adapter,
            and saves both.
    """

    model: "PreTrainedModel"
    typical_ids: list[int]
    steps: int = 1
    task_type: str = "CAUSAL_LM"


class Driver(Protocol):
    """What a method does of its own at each optimizer step.

    Attributes:
        settled: steps after which the method has its final form. States before are neither kept as the best nor
            counted for early stopping.
    """

    settled: int

    def before_update(self) -> None:
        """Called when the gradients of a step are complete and clipped; may add to them."""

    def after_update(self, step: int) -> None:
        """Called after the optimizer's update number `step`, the first being 1, while its gradients are still there."""

    def state(self) -> "dict[str, torch.Tensor]":
        """All that an interrupted training needs to go on."""

    def load_state(self, state: "Mapping[str, torch.Tensor]") -> None:
        """Go on from a `state`."""


@dataclass(frozen=True)
class Mergeable:
    """What was trained can become a checkpoint that transformers runs by itself."""


@dataclass(frozen=True)
class NotMergeable:
    """It can't, for a reason, given as a sentence without its end."""

    reason: str


Mergeability = Mergeable | NotMergeable


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to adapt a model.

    Attributes:
        name: as users write it.
        summary: what it trains, in half a sentence.
        paper: authors, year and arXiv number.
        learning_rate: peak, for AdamW; None for what is not trained.
        settings: its own settings with their defaults, which a recipe may replace.
        search_space: setting -> the range in which `--tune` looks for it: the learning rate, and the one that says how
            much is trained.
        attach: makes the model to train. Its trainable parameters are those with `requires_grad`.
        trains_base: the base's own weights are trained, so it can't be held at 8 or 4 bits, and what is saved
            is a whole checkpoint.
        unsupported: given the base (perhaps without weights), why the method can't be used with it; None if it can.
        driver: what it does at each step of the training, made from the attached model.
        merge: makes a merged checkpoint: attached model on a base of floating point, and tokenizer -> the model that
            transformers runs by itself, and its tokenizer; raises MethodError, ValueError or NotImplementedError if
            that can't be done. Or why there is no such checkpoint of any model.
        merge_obstacle: given the attached model (perhaps without weights), why there is none of this model, where that
            depends on the architecture; None if there is one.
        recomputes: activations can be computed anew in the backward pass (gradient checkpointing), if a recipe asks for
            it; where not, they are kept.
        loads_with: a module to import before PEFT can load its adapter, where PEFT doesn't know it by itself.
    """

    name: str
    summary: str
    paper: str
    learning_rate: float | None
    attach: "Callable[[Attachment, Mapping[str, Any]], nn.Module]"
    settings: Mapping[str, Any] = field(default_factory=dict)
    search_space: Mapping[str, Range] = field(default_factory=dict)
    trains_base: bool = False
    unsupported: "Callable[[PreTrainedModel], str | None] | None" = None
    driver: "Callable[[nn.Module], Driver] | None" = None
    merge: "Callable[[nn.Module, Any], tuple[PreTrainedModel, Any]] | NotMergeable"
    merge_obstacle: "Callable[[nn.Module], str | None] | None" = None
    recomputes: bool = True
    loads_with: str | None = None

    @property
    def trains(self) -> bool:
        """Whether there is anything to train."""
        return self.learning_rate is not None

    def mergeability(self, attached: "nn.Module | None" = None) -> Mergeability:
        """Whether a merged checkpoint can be made; if not, the reason says how the adapter is loaded instead.

        Args:
            attached: what `attach` made; needed where it depends on the architecture, and perhaps without weights.
        """
        reason = None
        if isinstance(self.merge, NotMergeable):
            reason = self.merge.reason
        elif self.merge_obstacle is not None and attached is not None:
            reason = self.merge_obstacle(attached)
        if reason is None:
            return Mergeable()
        if not self.trains:
            return NotMergeable(reason)
        first = f" after importing {self.loads_with}" if self.loads_with else ""
        return NotMergeable(f"{reason}; load adapter/ with PEFT{first}")
