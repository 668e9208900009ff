"""A bottleneck adapter in one function."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers.activations import GELUActivation

from workbench.methods.bottleneck.layer import BottleneckLayer, hidden_states, with_hidden_states


class _Bottleneck(torch.autograd.Function):
    """`x + gelu(x D' + d) U' + u`, the sums accumulated in the products, in the precision of x."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        down: torch.Tensor,
        down_bias: torch.Tensor,
        up: torch.Tensor,
        up_bias: torch.Tensor,
    ) -> torch.Tensor:
        """x (..., width), down (size, width), up (width, size) -> (..., width)."""
        rows = x.reshape(-1, x.shape[-1])
        down, up = down.to(x.dtype), up.to(x.dtype)
        hidden = torch.addmm(down_bias.to(x.dtype), rows, down.t())
        active = nn.functional.gelu(hidden)
        ctx.save_for_backward(rows, down, up, hidden, active)
        return torch.addmm(rows, active, up.t()).add_(up_bias.to(x.dtype)).view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of all five."""
        rows, down, up, hidden, active = ctx.saved_tensors
        gradient = gradients[0].reshape(rows.shape)
        hidden_gradient = torch.ops.aten.gelu_backward(gradient @ up, hidden)
        x_gradient = None
        if ctx.needs_input_grad[0]:
            x_gradient = torch.addmm(gradient, hidden_gradient, down).view(gradients[0].shape)
        return (
            x_gradient,
            (hidden_gradient.t() @ rows).float(),
            hidden_gradient.sum(0, dtype=torch.float32),
            (gradient.t() @ active).float(),
            gradient.sum(0, dtype=torch.float32),
        )


def fast_bottleneck(module: nn.Module) -> Callable[..., Any] | None:
    """For a layer with one adapter behind its block, in float32, with GELU, no scale and no dropout."""
    if not isinstance(module, BottleneckLayer) or module.disable_adapters:
        return None
    names = [name for name in module.active_adapters if name in module.bottleneck_down]
    supported = (
        len(names) == 1
        and not module.parallel[names[0]]
        and module.scale[names[0]] == 1
        and type(module.activation[names[0]]) is GELUActivation
        and module.dropout[names[0]].p == 0
        and module.bottleneck_down[names[0]].weight.dtype == torch.float32
    )
    return partial(_bottleneck, module, names[0]) if supported else None


def _bottleneck(layer: BottleneckLayer, name: str, *args: Any, **kwargs: Any) -> Any:
    output = layer.base_layer(*args, **kwargs)
    said = hidden_states(output)
    down, up = layer.bottleneck_down[name], layer.bottleneck_up[name]
    if said.dtype != down.weight.dtype and not torch.is_autocast_enabled(said.device.type):
        said = said + layer.update(name, said)  # without autocast an adapter is computed in its own precision
    else:
        with torch.autocast(said.device.type, enabled=False):  # the function casts what has to be cast
            said = _Bottleneck.apply(said, down.weight, down.bias, up.weight, up.bias)
    return with_hidden_states(output, said)
