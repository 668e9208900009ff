"""The output layer, and the loss of a large vocabulary without its logits in memory."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from workbench.models.fast.compiled import Loop, can_compile
from workbench.models.head import head_name
from workbench.models.probe import read_short_text
from workbench.models.split import is_split

# Logits of one part, in bytes. Below 32 MB glibc gives memory again that it has, above it asks the system each time.
PART_BYTES = {"cpu": 3 * 2**23}
PART_BYTES_ELSEWHERE = 2**28
_cross_entropy_loop = Loop("cross_entropy")
# Positions whose logits are widened to float32 together.
ROWS = 64


def output_layer(model: nn.Module) -> nn.Module:
    """The layer that maps hidden states to logits.

    Raises:
        TypeError: the model has none.
    """
    layer = model.get_output_embeddings()  # type: ignore[operator]
    if not isinstance(layer, nn.Module):
        raise TypeError(f"{type(model).__name__} has no output embeddings: it is no causal language model")
    return layer


def output_weight(model: nn.Module) -> torch.Tensor:
    """The output layer's weight, (vocabulary, width)."""
    weight = output_layer(model).weight
    assert isinstance(weight, torch.Tensor)
    return weight


def has_linear_output(model: nn.Module) -> bool:
    """Whether the logits are the output layer's frozen weight times the hidden states, and nothing else.

    Some models scale or cap their logits afterwards; a short text through the model shows it. Those with a head of
    classes have no output layer, and a split weight can't be multiplied outside of the model's forward pass.
    """
    if head_name(model) is not None or is_split(model):
        return False
    layer = output_layer(model)
    if type(layer) is not nn.Linear or getattr(layer, "bias", None) is not None or layer.weight.requires_grad:
        return False
    if "forward" in vars(layer):  # somebody else's, such as accelerate's for several devices
        return False
    seen: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        logits = read_short_text(model).logits
    finally:
        hook.remove()
    return len(seen) == 1 and torch.equal(logits, seen[0].to(layer.weight.dtype) @ layer.weight.t())


@contextmanager
def output_of(model: nn.Module, select: Callable[[torch.Tensor], torch.Tensor], hidden: bool) -> Iterator[None]:
    """While the block runs, the output layer of `model` is given what `select` takes from the hidden states.

    The output layer is costly: for a vocabulary of 49,152, as a third of SmolLM2's layers. A hook on it works for
    every architecture and every method.

    Args:
        select: (batch, length, width) -> (positions, width).
        hidden: the selected hidden states come out themselves where logits would; for a plain output layer only.
    """
    layer = output_layer(model)
    with ExitStack() as stack:
        if hidden:
            layer.forward = select
            stack.callback(delattr, layer, "forward")
        else:
            hook = layer.register_forward_pre_hook(lambda _, arguments: (select(arguments[0]),))
            stack.callback(hook.remove)
        yield


def linear_cross_entropy(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihoods of `targets` under `softmax(hidden weight')`, in nats.

    The gradient is computed along with the loss, part by part, so that neither logits nor probabilities of all
    positions exist at once (the idea of Liger Kernel's fused loss, arXiv:2410.10989).

    Args:
        hidden: (positions, width).
        weight: (vocabulary, width), frozen.
        targets: (positions,).

    Returns:
        (positions,), in float32.

    Raises:
        IndexError: a target is no word of the vocabulary.
    """
    return _LinearCrossEntropy.apply(hidden, weight, targets)


def _part(weight: torch.Tensor, positions: int) -> int:
    """How many positions to compute at once: as many as there are or as fit, in whole `ROWS` if that is possible."""
    most = PART_BYTES.get(weight.device.type, PART_BYTES_ELSEWHERE) // (weight.element_size() * len(weight))
    return max(1, min(most // ROWS * ROWS or most, -(-positions // ROWS) * ROWS))


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor, losses: torch.Tensor, backwards: bool) -> None:
    """Write the losses, and the gradient over the logits if it goes `backwards`."""
    if can_compile(logits):
        targets = targets.to(torch.int64).contiguous()
        if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < logits.shape[1]:
            raise IndexError(f"targets from {int(targets.min())} to {int(targets.max())} for {logits.shape[1]} words")
        _cross_entropy_loop(len(logits), logits, targets, losses, logits.shape[1], int(backwards))
        return
    for low, chosen, loss in zip(logits.split(ROWS), targets[:, None].split(ROWS), losses.split(ROWS), strict=True):
        high = torch.log_softmax(low, dim=-1, dtype=torch.float32)
        loss.copy_(high.gather(1, chosen)[:, 0]).neg_()
        if backwards:
            high.exp_().scatter_add_(1, chosen, high.new_full((len(low), 1), -1.0))
            low.copy_(high)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        rows = hidden.to(weight.dtype)
        size = _part(weight, len(rows))
        logits = weight.new_empty(size, len(weight))
        losses = rows.new_empty(len(rows), dtype=torch.float32)
        gradient = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            # oneDNN builds a kernel for every shape it meets: the rest, too, gets one of few.
            padded = min(size, -(-len(part) // ROWS) * ROWS)
            torch.mm(nn.functional.pad(part, (0, 0, 0, padded - len(part))), weight.t(), out=logits[:padded])
            _cross_entropy(
                logits[: len(part)], targets[start : start + size], losses[start : start + size], gradient is not None
            )
            if gradient is not None:
                gradient[start : start + size] = (logits[:padded] @ weight)[: len(part)]
        if gradient is not None:
            ctx.save_for_backward(gradient)
            ctx.dtype = hidden.dtype
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient * gradients[0][:, None]).to(ctx.dtype), None, None
