"""Completion-only loss, with logits only where there is a label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from workbench.data.render import Rendered

IGNORED = -100


def labelled(rendered: Rendered) -> dict[str, Any]:
    """Token ids and labels of an example: the labels are `IGNORED` on the prompt."""
    return {
        "input_ids": rendered.prompt_ids + rendered.completion_ids,
        "labels": [IGNORED] * len(rendered.prompt_ids) + rendered.completion_ids,
        "length": rendered.length,
    }


@dataclass(frozen=True)
class RightPadding:
    """Collates examples of `labelled` to tensors of shape (batch, longest)."""

    pad_id: int

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Pad on the right; padding has neither attention nor a label."""
        longest = max(len(example["input_ids"]) for example in examples)

        def padded(key: str, fill: int) -> torch.Tensor:
            return torch.tensor([[*example[key], *[fill] * (longest - len(example[key]))] for example in examples])

        lengths = torch.tensor([len(example["input_ids"]) for example in examples])
        return {
            "input_ids": padded("input_ids", self.pad_id),
            "attention_mask": (torch.arange(longest)[None] < lengths[:, None]).long(),
            "labels": padded("labels", IGNORED),
        }


def negative_log_likelihoods(
    model: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative log-likelihood of each labelled token.

    The output layer sees only the positions whose next token has a label: for a vocabulary of 49,152 it is as
    costly as a third of SmolLM2's layers. A hook on it works for every architecture and for every method.

    Args:
        model: causal language model, with or without an adapter.
        input_ids: (batch, length).
        attention_mask: (batch, length), 0 on padding.
        labels: (batch, length), `IGNORED` where nothing is to be predicted.

    Returns:
        The likelihoods in nats, of shape (labelled tokens,), and the row in the batch of each.
    """
    predicts = torch.zeros_like(labels, dtype=torch.bool)
    predicts[:, :-1] = labels[:, 1:] != IGNORED

    def only_labelled(_: nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden = arguments[0]
        # Virtual tokens of prompt tuning stand in front of the text.
        virtual = hidden.shape[1] - predicts.shape[1]
        return (hidden[:, virtual:][predicts],)

    hook = output_layer(model).register_forward_pre_hook(only_labelled)
    try:
        logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
    finally:
        hook.remove()
    losses = nn.functional.cross_entropy(logits.float(), labels[:, 1:][predicts[:, :-1]], reduction="none")
    return losses, predicts.nonzero()[:, 0]


def output_layer(model: nn.Module) -> nn.Module:
    """The layer that maps hidden states to logits.

    Raises:
        TypeError: the model has none.
    """
    layer = model.get_output_embeddings()  # type: ignore[operator]
    if not isinstance(layer, nn.Module):
        raise TypeError(f"{type(model).__name__} has no output embeddings: it is no causal language model")
    return layer
