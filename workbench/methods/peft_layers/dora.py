"""DoRA whose norms cost little and begin exactly at the base, whatever holds the base's weights."""

from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.lora.variants import DoraLinearVariant
from peft.utils import transpose
from torch import nn

from workbench.methods.peft_layers.precision import dequantized, keep_scales


class ExactDora(DoraLinearVariant):
    """`m / |W + sBA| * (W + sBA) x + b` (Liu et al. 2024, arXiv:2402.09353), the norm taken of each row.

    PEFT makes the matrix W + sBA at every step to measure its rows, in the precision of the weights: in bfloat16 the
    norm differs from the magnitude it began with, and so the model from its base; and it reads an int8 weight in a
    way that loses its scales on a CPU. The squared norms are |W|^2 + 2s B(AW') + s^2 B(AA')B', row by row. The first
    never changes, AW' is what the frozen layer makes of A, and the last is small.
    """

    @staticmethod
    def forward(module: Any, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """x (..., in), result (..., out): the frozen layer's -> (..., out)."""
        down, up = module.lora_A[active_adapter], module.lora_B[active_adapter]
        scaling, bias = module.scaling[active_adapter], module.get_base_layer().bias
        factor = module.lora_magnitude_vector[active_adapter].weight / _norms(module, active_adapter, result.dtype)
        update = up(down(module.lora_dropout[active_adapter](x))) * scaling
        without_bias = result if bias is None else result - bias
        return result + ((factor - 1) * without_bias + factor * update).to(result.dtype)


@torch.no_grad()
def _norms(module: Any, adapter: str, precision: torch.dtype) -> torch.Tensor:
    """Norms of the rows of W + sBA, (out,) in float32; constants to the gradient, as the paper has it."""
    base, scaling = module.get_base_layer(), module.scaling[adapter]
    down, up = module.lora_A[adapter].weight, module.lora_B[adapter].weight
    crossed = base(down.to(precision))
    if base.bias is not None:
        crossed = crossed - base.bias
    with torch.autocast(down.device.type, enabled=False):
        down, up = down.float(), up.float()
        squares = module.lora_magnitude_vector[adapter].squared_norms + 2 * scaling * (up * crossed.float().t()).sum(1)
        squares += scaling**2 * ((up @ (down @ down.t())) * up).sum(1)
    return squares.clamp(min=0).sqrt()


def with_exact_norms(model: nn.Module, begins: bool = False) -> nn.Module:
    """Let every linear layer with a DoRA of PEFT compute as `ExactDora`.

    Args:
        begins: it was attached just now, and its magnitudes become exactly the norms of the base.
    """
    for module in model.modules():
        if not isinstance(module, LoraLayer):
            continue
        variants: dict[str, Any] = module.lora_variant
        for adapter, variant in variants.items():
            if type(variant) is not DoraLinearVariant:  # an embedding's or a convolution's
                continue
            base: Any = module.get_base_layer()
            weight = transpose(dequantized(base).float(), getattr(module, "fan_in_fan_out", False))
            magnitude: Any = module.lora_magnitude_vector[adapter]
            magnitude.register_buffer("squared_norms", weight.square().sum(dim=1), persistent=False)
            if begins:
                magnitude.weight.data = magnitude.squared_norms.sqrt()
            variants[adapter] = ExactDora()
    keep_scales(model)
    return model
