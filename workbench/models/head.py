"""A head of classes: a linear layer that reads the last hidden state of a text's last token.

It is that of Radford et al. 2018 ("Improving Language Understanding by Generative Pre-Training", section 3.2), and
transformers calls a model that has it `...ForSequenceClassification`. Transformers finds the last token by what is not
the padding token, or, given vectors in place of tokens, takes the last column; here the attention mask says which token
is the last one, whatever pads it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Names of the layer, as transformers and PEFT have them.
HEAD_NAMES = ("score", "classifier")
# Of new weights, where the configuration doesn't say; GPT-1's own.
DEVIATION = 0.02


def head_name(model: nn.Module) -> str | None:
    """What the head of a classifier is called; None for a model that has none."""
    base = plain_model(model)
    return next((name for name in HEAD_NAMES if isinstance(getattr(base, name, None), nn.Module)), None)


def plain_model(model: Any) -> Any:
    """The model of transformers under an adapter, or itself where it has none."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def head_of(model: nn.Module) -> nn.Module:
    """The head of a classifier, with or without an adapter.

    Raises:
        TypeError: the model has none.
    """
    name = head_name(model)
    if name is None:
        raise TypeError(f"{type(model).__name__} has no head of classes")
    head: nn.Module = getattr(plain_model(model), name)
    return head


def task_type(model: nn.Module) -> str:
    """What PEFT calls a model's task. With "SEQ_CLS" it trains the head along and saves it with the adapter."""
    return "CAUSAL_LM" if head_name(model) is None else "SEQ_CLS"


@torch.no_grad()
def draw_head(model: "PreTrainedModel", seed: int) -> None:
    """Draw the weights of a new head, the same whatever holds the rest of the model."""
    weight: Any = head_of(model).weight
    deviation = getattr(model.config.get_text_config(), "initializer_range", DEVIATION)
    drawn = torch.empty(weight.shape).normal_(std=deviation, generator=torch.Generator().manual_seed(seed))
    weight.copy_(drawn)


def last_states(
    model: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    read: Callable[[torch.Tensor, torch.Tensor], Any] | None = None,
) -> torch.Tensor:
    """What the head reads: the last hidden state of each text's last token.

    Args:
        model: a classifier, with or without an adapter.
        input_ids: (batch, length).
        attention_mask: (batch, length), 0 on padding.
        read: lets the model read both, behind what it has read before; None begins with them.

    Returns:
        (batch, width), in the precision of the model.
    """
    length = attention_mask.shape[1]
    last = length - 1 - attention_mask.flip(dims=[1]).argmax(dim=1)

    def of_last_token(hidden: torch.Tensor) -> torch.Tensor:
        # Virtual tokens stand in front of the text. Whichever column transformers takes afterwards, it is this one.
        states = hidden[torch.arange(len(hidden), device=hidden.device), hidden.shape[1] - length + last]
        return states[:, None].expand(-1, hidden.shape[1], -1)

    with _head_as(model, of_last_token):
        if read is not None:
            output = read(input_ids, attention_mask)
        else:
            output = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        states: torch.Tensor = output.logits
    return states


@contextmanager
def without_head(model: nn.Module) -> Iterator[None]:
    """While the block runs, a classifier computes no classes: its head passes on what it is given."""
    with _head_as(model, lambda hidden: hidden):
        yield


@contextmanager
def _head_as(model: nn.Module, forward: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    head = head_of(model)
    before = vars(head).get("forward")  # somebody else's, such as accelerate's for several devices
    head.forward = forward
    try:
        yield
    finally:
        del head.forward
        if before is not None:
            head.forward = before


def class_logits(
    model: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    read: Callable[[torch.Tensor, torch.Tensor], Any] | None = None,
) -> torch.Tensor:
    """Logits of all classes, (batch, classes) in float32; the head computes in its own precision.

    Args:
        model, input_ids, attention_mask, read: see `last_states`.
    """
    return read_by_head(head_of(model), last_states(model, input_ids, attention_mask, read))


def read_by_head(head: Any, states: torch.Tensor) -> torch.Tensor:
    """What a head makes of hidden states (batch, width): (batch, classes) in float32."""
    with torch.autocast(states.device.type, enabled=False):
        logits: torch.Tensor = head(states.to(head.weight.dtype))
    return logits.float()


@contextmanager
def without_adapter(model: nn.Module) -> Iterator[nn.Module]:
    """While the block runs, the base of a model with an adapter, as it was before; its head is one of no training."""
    tuned: Any = model
    if tuned.active_peft_config.is_prompt_learning:  # PEFT's own way asks the model for what only writers have
        yield tuned.get_base_model()
        return
    with tuned.disable_adapter():
        yield model
