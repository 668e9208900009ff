"""Completion-only loss, with logits only where there is a label."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from workbench.data.render import Rendered
from workbench.models import has_linear_output, linear_cross_entropy, output_of, output_weight

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
    """Collates examples of `labelled` to tensors of shape (batch, length), the length a multiple of `multiple`.

    oneDNN builds a kernel for every shape of a matrix that it meets, and keeps a thousand: lengths of one
    multiple meet again.
    """

    pad_id: int
    multiple: int = 1

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Pad on the right; padding has neither attention nor a label."""
        longest = max(len(example["input_ids"]) for example in examples)
        longest += -longest % self.multiple

        def padded(key: str, fill: int) -> torch.Tensor:
            return torch.tensor([[*example[key], *[fill] * (longest - len(example[key]))] for example in examples])

        lengths = torch.tensor([len(example["input_ids"]) for example in examples])
        return {
            "input_ids": padded("input_ids", self.pad_id),
            "attention_mask": (torch.arange(longest)[None] < lengths[:, None]).long(),
            "labels": padded("labels", IGNORED),
        }


def negative_log_likelihoods(
    model: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    labels: torch.Tensor,
    linear_output: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative log-likelihood of each labelled token.

    The output layer sees only the positions whose next token has a label.

    Args:
        model: causal language model, with or without an adapter.
        input_ids: (batch, length).
        attention_mask: (batch, length), 0 on padding.
        labels: (batch, length), `IGNORED` where nothing is to be predicted.
        linear_output: `has_linear_output(model)` said so: the loss then needs no logits.

    Returns:
        Their negative log-likelihoods in nats, of shape (labelled tokens,), and the row in the batch of each.
    """
    output, targets, rows = labelled_output(model, input_ids, attention_mask, labels, linear_output)
    if linear_output:
        return linear_cross_entropy(output, output_weight(model), targets), rows
    return nn.functional.cross_entropy(output.float(), targets, reduction="none"), rows


def labelled_output(
    model: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor, hidden: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a model gives where the next token has a label; see `negative_log_likelihoods`.

    Args:
        hidden: what the output layer would be given, in place of logits.

    Returns:
        Logits or hidden states, (labelled tokens, vocabulary or width), the tokens that follow and the row in the batch
        of each.
    """
    predicts = torch.zeros_like(labels, dtype=torch.bool)
    predicts[:, :-1] = labels[:, 1:] != IGNORED
    targets = labels[:, 1:][predicts[:, :-1]]

    def labelled_hidden(states: torch.Tensor) -> torch.Tensor:
        # Virtual tokens of prompt tuning stand in front of the text.
        return states[:, states.shape[1] - predicts.shape[1] :][predicts]

    with output_of(model, labelled_hidden, hidden=hidden):
        output = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
    return output, targets, predicts.nonzero()[:, 0]


def completion_losses(model: nn.Module, rendered: Sequence[Rendered]) -> list[torch.Tensor]:
    """Negative log-likelihood of each completion's tokens, (tokens,): one text at a time, no padding, all logits."""
    place = next(model.parameters()).device
    found = []
    for one in rendered:
        ids = torch.tensor([one.prompt_ids + one.completion_ids], device=place)
        logits = model(input_ids=ids, use_cache=False).logits[0]
        count = len(one.completion_ids)  # counted from the end: virtual tokens stand in front
        found.append(nn.functional.cross_entropy(logits[-count - 1 : -1].float(), ids[0, -count:], reduction="none"))
    return found


@torch.no_grad()
def mean_completion_loss(model: nn.Module, rendered: Sequence[Rendered], pad_id: int, batch_size: int) -> float:
    """Negative log-likelihood of the completions given their prompts, in nats per token.

    Args:
        model: in evaluation mode.
        pad_id: fills up shorter rows; it is never attended to.
        batch_size: examples that are read together, such of like length.
    """
    linear_output = has_linear_output(model)
    total = 0.0
    for batch in batches_of_like_length(model, rendered, pad_id, batch_size):
        losses, _ = negative_log_likelihoods(model, **batch, linear_output=linear_output)
        total += float(losses.cpu().double().sum())
    return total / sum(len(item.completion_ids) for item in rendered)


def batches_of_like_length(
    model: nn.Module, rendered: Sequence[Rendered], pad_id: int, batch_size: int
) -> Iterator[dict[str, torch.Tensor]]:
    """All examples in batches of `RightPadding`, on the device of `model`, the shortest first."""
    device, collate = next(model.parameters()).device, RightPadding(pad_id)
    order = sorted(rendered, key=lambda item: item.length)
    for start in range(0, len(order), batch_size):
        batch = collate([labelled(item) for item in order[start : start + batch_size]])
        yield {name: tensor.to(device) for name, tensor in batch.items()}
