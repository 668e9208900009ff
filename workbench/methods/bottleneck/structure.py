"""Finding the parts of a transformer by their shape and place, so that a new architecture needs no list."""

import re

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
FEED_FORWARD = re.compile(r"mlp|feed_forward|ffn", re.IGNORECASE)
NORM = re.compile(r"norm|ln", re.IGNORECASE)


def layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The list of layers of a decoder, and its name.

    Raises:
        ValueError: there is no list of `num_hidden_layers` modules.
    """
    count = model.config.get_text_config().num_hidden_layers  # type: ignore[union-attr,operator]
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return name, module
    raise ValueError(f"no list of {count} layers in {type(model).__name__}: name target_modules in the settings")


def output_projections(model: nn.Module) -> list[str]:
    """Names of the last linear layer of every attention and every feed-forward block.

    Raises:
        ValueError: a layer has no such block, or a block no linear layer as wide as the model.
    """
    width = model.config.get_text_config().hidden_size  # type: ignore[union-attr,operator]
    found = []
    prefix, blocks = layers(model)
    for index, layer in enumerate(blocks):
        for pattern, what in ((ATTENTION, "attention"), (FEED_FORWARD, "feed-forward")):
            inside = [
                f"{prefix}.{index}.{child}.{name}"
                for child, block in layer.named_children()
                if pattern.search(child) and not NORM.search(child)
                for name in _projections(block, width)
            ]
            if not inside:
                raise ValueError(
                    f"no {what} projection found in layer {index} of {type(model).__name__}: "
                    "name target_modules in the settings"
                )
            found.append(inside[-1])
    return found


def _projections(block: nn.Module, width: int) -> list[str]:
    """Names of the linear layers of `block` with `width` outputs; one that is adapted already counts as itself."""
    found: list[str] = []
    adapted: list[str] = []
    for name, module in block.named_modules():
        if any(name.startswith(f"{outer}.") for outer in adapted):
            continue
        if isinstance(module, BaseTunerLayer):
            adapted.append(name)
        if _output_width(module) == width:
            found.append(name)
    return found


def _output_width(module: nn.Module) -> int | None:
    if isinstance(module, BaseTunerLayer):
        module = module.get_base_layer()
    if isinstance(module, Conv1D):
        return module.nf
    return module.out_features if isinstance(module, nn.Linear) else None
