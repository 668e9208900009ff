"""The output layer, and the loss of a large vocabulary without its logits in memory."""

from typing import Any

import torch
from torch import nn

# Logits of one part, in bytes. Below 32 MB glibc gives memory again that it has, above it asks the system each time.
PART_BYTES = {"cpu": 2**24}
PART_BYTES_ELSEWHERE = 2**28
ROWS = 32


def output_layer(model: nn.Module) -> nn.Module:
    """The layer that maps hidden states to logits.

    Raises:
        TypeError: the model has none.
    """
    layer = model.get_output_embeddings()  # type: ignore[operator]
    if not isinstance(layer, nn.Module):
        raise TypeError(f"{type(model).__name__} has no output embeddings: it is no causal language model")
    return layer


def has_plain_output(model: nn.Module) -> bool:
    """Whether the logits are the output layer's frozen weight times the hidden states, and nothing else.

    Some models scale or cap their logits afterwards; a short text through the model shows it.
    """
    layer = output_layer(model)
    if type(layer) is not nn.Linear or layer.bias is not None or layer.weight.requires_grad:
        return False
    seen: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    training = model.training
    try:
        with torch.no_grad():
            ids = torch.arange(1, 5, device=layer.weight.device)[None]
            logits = model.eval()(input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()
        model.train(training)
    return len(seen) == 1 and torch.equal(logits, seen[0].to(layer.weight.dtype) @ layer.weight.t())


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
    """
    return _LinearCrossEntropy.apply(hidden, weight, targets)


def _part(weight: torch.Tensor, positions: int) -> int:
    """How many positions to compute at once."""
    most = PART_BYTES.get(weight.device.type, PART_BYTES_ELSEWHERE) // (4 * len(weight))
    whole = most // ROWS * ROWS or max(1, most)
    return min(whole, max(1, positions + ROWS - 1) // ROWS * ROWS or ROWS)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        rows = hidden.to(weight.dtype)
        size = _part(weight, len(rows))
        logits, wide = weight.new_empty(size, len(weight)), weight.new_empty(size, len(weight), dtype=torch.float32)
        losses = rows.new_empty(len(rows), dtype=torch.float32)
        gradient = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        for start in range(0, len(rows), size):
            part, wanted = rows[start : start + size], targets[start : start + size, None]
            count = len(part)
            # oneDNN builds a kernel for every shape it meets: the rest, too, gets one of few.
            padded = min(size, -(-count // ROWS) * ROWS)
            part = nn.functional.pad(part, (0, 0, 0, padded - count))
            torch.mm(part, weight.t(), out=logits[:padded])
            low, high = logits[:count], wide[:count]
            torch.log_softmax(low, dim=-1, dtype=torch.float32, out=high)
            losses[start : start + size] = -high.gather(1, wanted)[:, 0]
            if gradient is not None:
                high.exp_().scatter_add_(1, wanted, high.new_full((count, 1), -1.0))
                low.copy_(high)
                gradient[start : start + size] = (logits[:padded] @ weight)[:count]
        if gradient is not None:
            ctx.save_for_backward(gradient)
            ctx.dtype = hidden.dtype
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient * gradients[0][:, None]).to(ctx.dtype), None, None
