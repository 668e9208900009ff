"""What PEFT's layers on quantized weights need to be right."""

from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn


def keep_precision(model: nn.Module) -> nn.Module:
    """Let adapted quantized layers ask and answer in the precision of the model.

    Some of PEFT's (AdaLoRA, IA3) go over to float32, their own precision: the next layer of a model in bfloat16 can't
    read that, and LLM.int8 computes outliers otherwise. IA3's also lack the switch by which
    `disable_input_dtype_casting` finds a layer's habits.
    """
    precision = next(p.dtype for p in model.parameters() if p.is_floating_point() and not p.requires_grad)
    layers: list[Any] = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.cast_input_dtype_enabled = getattr(layer, "cast_input_dtype_enabled", True)
        base = layer.get_base_layer()
        if not next(base.parameters()).is_floating_point():
            base.register_forward_pre_hook(partial(_cast_input, precision))
            layer.register_forward_hook(_in_precision_of_input)
    return model


def dequantized(linear: Any) -> torch.Tensor:
    """The weight of a linear layer in floating point, as the layer's products see it; laid out as it is stored.

    PEFT's own way to an int8 weight on a CPU takes its scales away with it.
    """
    weight = linear.weight
    kind = type(weight).__name__
    if kind == "Params4bit":
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, weight.quant_state)
    if kind == "Int8Params":
        from bitsandbytes.functional import int8_vectorwise_dequant

        return int8_vectorwise_dequant(weight.data, weight.SCB if weight.SCB is not None else linear.state.SCB)
    return weight.data


def keep_scales(model: nn.Module) -> None:
    """Give int8 weights their scales back, which PEFT loses on a CPU when it has read them."""
    for module in model.modules():
        weight: Any = module._parameters.get("weight")
        if type(weight).__name__ == "Int8Params" and weight.CB is not None and weight.SCB is None:
            weight.SCB = module.state.SCB  # type: ignore[union-attr]


def _cast_input(precision: torch.dtype, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0].to(precision), *inputs[1:])


def _in_precision_of_input(module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
    return output.to(inputs[0].dtype)
