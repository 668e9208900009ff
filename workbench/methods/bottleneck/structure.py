"""Finding the parts of a transformer by their shape and place, so that a new architecture needs no list."""

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
FEED_FORWARD = re.compile(r"mlp|feed_forward|ffn|moe", re.IGNORECASE)
NORM = re.compile(r"norm|ln", re.IGNORECASE)
# Settings of a configuration that could be the width of its feed-forward blocks.
WIDTH = re.compile(r"inner|intermediate|ffn|feed_forward|mlp", re.IGNORECASE)
QUERY = re.compile(r"q|wq|query|q_(.*_)?proj|q_lin|query_(proj|layer)")
GATE = re.compile(r"gate|w1", re.IGNORECASE)


@dataclass(frozen=True)
class FeedForward:
    """The parts of a block `down(activation(gate(x)) * up(x))`, or `down(activation(up(x)))` without a gate.

    Attributes:
        up, down, gate: names of the linear layers inside the block.
        activation: the function.
    """

    up: str
    down: str
    gate: str | None
    activation: Callable[[torch.Tensor], torch.Tensor]

    def formula(self, block: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """What the block computes without dropout; x (..., width) -> (..., width)."""
        up, down = block.get_submodule(self.up), block.get_submodule(self.down)
        if self.gate is None:
            return down(self.activation(up(x)))
        return down(self.activation(block.get_submodule(self.gate)(x)) * up(x))


def layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The list of layers of a decoder, and its name.

    Raises:
        ValueError: there is no list of `num_hidden_layers` modules.
    """
    count = _config(model).num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return name, module
    raise ValueError(f"no list of {count} layers in {type(model).__name__}: name target_modules in the settings")


def blocks(model: nn.Module, kind: re.Pattern[str]) -> list[str]:
    """Names of the attention blocks (`ATTENTION`) or the feed-forward blocks (`FEED_FORWARD`), one of each layer.

    Raises:
        ValueError: a layer has no such block.
    """
    what = "attention" if kind is ATTENTION else "feed-forward"
    prefix, found = layers(model)
    names = []
    for index, layer in enumerate(found):
        children = [name for name, _ in layer.named_children() if kind.search(name) and not NORM.search(name)]
        if not children:
            raise ValueError(
                f"no {what} block found in layer {index} of {type(model).__name__}, which has "
                f"{', '.join(name for name, _ in layer.named_children())}: name target_modules in the settings"
            )
        names.append(f"{prefix}.{index}.{children[-1]}")
    return names


def keys_and_values(model: nn.Module) -> list[str]:
    """Names of the linear layers that make keys and values; where one layer makes queries too, that.

    Raises:
        ValueError: a layer has no attention block.
    """
    found = []
    for block in blocks(model, ATTENTION):
        *readers, _ = [name for name, *_ in reads_and_writes(model.get_submodule(block))]
        found += [f"{block}.{name}" for name in readers if not QUERY.fullmatch(name.rpartition(".")[2])]
    return found


def last_projections(model: nn.Module) -> list[str]:
    """Names of the linear layers at the end of the feed-forward blocks; of a mixture of experts, none.

    Raises:
        ValueError: a layer has no feed-forward block.
    """
    found = []
    for block in blocks(model, FEED_FORWARD):
        if _inner_width(model, block) is not None:
            found.append(f"{block}.{list(reads_and_writes(model.get_submodule(block)))[-1][0]}")
    return found


def width_of(model: nn.Module) -> int:
    """Numbers in a hidden state."""
    return int(_config(model).hidden_size)


def feed_forward(block: nn.Module) -> FeedForward | None:
    """The parts of a feed-forward block; None if it is of another kind, such as a mixture of experts.

    Which layer is the gate, and what the activation is, is seen by computing: the parts must give what the block
    gives. Without weights (on the meta device) names have to do.
    """
    linear = {name: sizes for name, module in block.named_modules() if (sizes := linear_sizes(module)) is not None}
    if not 2 <= len(linear) <= 3:
        return None
    *readers, down = linear
    inner, width = linear[down]
    if any(linear[name] != (width, inner) for name in readers):
        return None
    orders: list[tuple[str, str | None]]
    orders = [(readers[0], None)] if len(readers) == 1 else [(up, gate) for gate, up in permutations(readers)]
    orders.sort(key=lambda order: order[1] is not None and GATE.search(order[1]) is None)
    candidates = [FeedForward(up, down, gate, f) for f in _activations(block) for up, gate in orders]
    if next(block.parameters()).is_meta:
        return candidates[0] if candidates else None
    return next((parts for parts in candidates if _computes(block, parts, width)), None)


def linear_sizes(module: nn.Module) -> tuple[int, int] | None:
    """Inputs and outputs of a linear layer, adapted or quantized ones included; None of anything else."""
    if isinstance(module, BaseTunerLayer):
        return None  # what it wraps is met by itself
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    return (module.in_features, module.out_features) if isinstance(module, nn.Linear) else None


def reads_and_writes(block: nn.Module) -> Iterator[tuple[str, int, int]]:
    """Name, inputs and outputs of every linear layer in `block`."""
    for name, module in block.named_modules():
        if (sizes := linear_sizes(module)) is not None:
            yield name, *sizes


def _activations(block: nn.Module) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    modules = [
        child
        for child in block.children()
        if not list(child.parameters()) and not isinstance(child, (nn.Dropout, nn.ModuleList, BaseTunerLayer))
    ]
    functions = [
        value
        for value in vars(block).values()
        if callable(value) and not isinstance(value, (nn.Module, type)) and not hasattr(value, "__self__")
    ]
    return [*modules, *functions]


def _computes(block: nn.Module, parts: FeedForward, width: int) -> bool:
    """Whether the block gives on random numbers what its parts give."""
    weight = next(block.parameters())
    floating = [p.dtype for p in block.parameters() if p.is_floating_point()]
    # Of what a quantized layer reads; its own weights are bytes.
    precision = weight.dtype if weight.is_floating_point() else (floating or [torch.bfloat16])[0]
    sample = torch.randn(4, width, generator=torch.Generator().manual_seed(0)).to(weight.device, precision)
    modes = {module: module.training for module in block.modules()}
    try:
        block.eval()
        with torch.no_grad():
            return torch.equal(block(sample), parts.formula(block, sample))
    except (RuntimeError, TypeError, IndexError):  # it reads something else than rows of hidden states
        return False
    finally:
        for module, mode in modes.items():
            module.training = mode


def width_setting(model: nn.Module) -> str | None:
    """The setting of the configuration that is the width of the feed-forward blocks; None if there is none.

    Found by trying: a model without weights is made from the changed configuration, and its blocks are measured.
    """
    config = _config(model)
    widths = {_inner_width(model, name) for name in blocks(model, FEED_FORWARD)}
    width = widths.pop()
    if widths or width is None:
        return None
    for name, value in config.to_dict().items():
        if WIDTH.search(name) and value in (None, width):
            wider = copy.deepcopy(config)
            setattr(wider, name, width + 1)
            if _widths(type(model), wider) == {width + 1}:
                return name
    return None


def _widths(kind: type[nn.Module], config: Any) -> set[int | None]:
    try:
        with torch.device("meta"):
            model = kind(config)
        return {_inner_width(model, name) for name in blocks(model, FEED_FORWARD)}
    except (ValueError, TypeError, RuntimeError):  # not a configuration of this architecture
        return set()


def _inner_width(model: nn.Module, name: str) -> int | None:
    """Inputs of the last linear layer of a feed-forward block of the usual kind."""
    block = model.get_submodule(name)
    block = block.get_base_layer() if isinstance(block, BaseTunerLayer) else block
    linear: Sequence[tuple[str, int, int]] = list(reads_and_writes(block))
    return linear[-1][1] if 2 <= len(linear) <= 3 else None


def _config(model: nn.Module) -> Any:
    return model.config.get_text_config()  # type: ignore[union-attr,operator]
