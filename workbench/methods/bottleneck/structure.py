"""Finding the parts of a transformer by their shape and place, so that a new architecture needs no list."""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
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
OUTPUT = re.compile(r"o|wo|w2|out|(o|c|out|down)_proj|fc_?out|fc_?2|dense|dense_4h_to_h|out_lin|linear_2")
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
        children = [
            name
            for name, child in layer.named_children()
            # What has no matrix is no block: a dropout may be called after the block that it stands behind.
            if kind.search(name) and not NORM.search(name) and any(p.ndim > 1 for p in child.parameters())
        ]
        if not children:
            raise ValueError(
                f"no {what} block found in layer {index} of {type(model).__name__}, which has "
                f"{', '.join(name for name, _ in layer.named_children())}: name target_modules in the settings"
            )
        names.append(f"{prefix}.{index}.{children[0]}")
    return names


def keys_and_values(model: nn.Module) -> list[str]:
    """Names of the linear layers that make keys and values; where one layer makes queries too, that.

    Raises:
        ValueError: a layer has no attention block, or its output projection can't be told from the others.
    """
    found = []
    for block in blocks(model, ATTENTION):
        names = list(reads_and_writes(model.get_submodule(block)))
        output = _output_projection(names, block)
        readers = [name for name in names if name != output and not QUERY.fullmatch(name.rpartition(".")[2])]
        found += [f"{block}.{name}" for name in readers]
    return found


def last_projections(model: nn.Module) -> list[str]:
    """Names of the linear layers at the end of the feed-forward blocks; of a mixture of experts, none.

    Raises:
        ValueError: a layer has no feed-forward block.
    """
    found = []
    for block in blocks(model, FEED_FORWARD):
        if (down := _down_projection(reads_and_writes(model.get_submodule(block)))) is not None:
            found.append(f"{block}.{down}")
    return found


def _output_projection(names: Sequence[str], block: str) -> str:
    named = [name for name in names if OUTPUT.fullmatch(name.rpartition(".")[2])]
    if len(named) != 1:
        raise ValueError(f"which of {', '.join(names)} in {block} is its output? Name target_modules in the settings")
    return named[0]


def _down_projection(linear: Mapping[str, tuple[int, int]]) -> str | None:
    """Of the two or three linear layers of a feed-forward block, with their inputs and outputs, the last one.

    It reads what the others write. Where inner width and width are equal, its name has to tell.
    """
    if not 2 <= len(linear) <= 3:
        return None
    fitting = [
        name
        for name, (inner, width) in linear.items()
        if all(sizes == (width, inner) for other, sizes in linear.items() if other != name)
    ]
    named = [name for name in fitting if OUTPUT.fullmatch(name.rpartition(".")[2])]
    return fitting[0] if len(fitting) == 1 else named[0] if len(named) == 1 else None


def width_of(model: nn.Module) -> int:
    """Numbers in a hidden state."""
    return int(_config(model).hidden_size)


def feed_forward(block: nn.Module) -> FeedForward | None:
    """The parts of a feed-forward block; None if it is of another kind, such as a mixture of experts.

    Which layer is the gate, and what the activation is, is seen by computing: the parts must give what the block
    gives. Without weights (on the meta device) names have to do.
    """
    linear = reads_and_writes(block)
    down = _down_projection(linear)
    if down is None:
        return None
    readers = [name for name in linear if name != down]
    width = linear[down][1]
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


def reads_and_writes(block: nn.Module) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of every linear layer in `block`, by name, in the order in which they are defined."""
    return {name: sizes for name, module in block.named_modules() if (sizes := linear_sizes(module)) is not None}


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
    """Whether the block gives on random numbers what its parts give; large ones show limits."""
    weight = next(block.parameters())
    floating = [p.dtype for p in block.parameters() if p.is_floating_point()]
    # Of what a quantized layer reads; its own weights are bytes.
    precision = weight.dtype if weight.is_floating_point() else (floating or [torch.bfloat16])[0]
    sample = torch.randn(4, width, generator=torch.Generator().manual_seed(0)).to(weight.device, precision)
    modes = {module: module.training for module in block.modules()}
    try:
        block.eval()
        with torch.no_grad():
            return all(_equal(block(x), parts.formula(block, x)) for x in (sample, 1000 * sample))
    except (
        RuntimeError,
        TypeError,
        IndexError,
        ValueError,
        AttributeError,
    ):  # it reads something else than rows of hidden states
        return False
    finally:
        for module, mode in modes.items():
            module.training = mode


def _equal(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two tensors are the same, and where a number is none (float16 overflows at 65,504), both have none."""
    return left.shape == right.shape and torch.allclose(left, right, rtol=0, atol=0, equal_nan=True)


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
    """Inputs of the last linear layer of a feed-forward block of the usual kind, without adapters merged into it."""
    block: Any = model.get_submodule(name)
    linear = reads_and_writes(block.get_base_layer() if isinstance(block, BaseTunerLayer) else block)
    down = _down_projection(linear)
    return linear[down][0] - getattr(block, "merged_width", 0) if down is not None else None


def _config(model: nn.Module) -> Any:
    return model.config.get_text_config()  # type: ignore[union-attr,operator]
