"""A block of a transformer with bottlenecks behind it or beside it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from peft.utils import transpose
from torch import nn
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

from workbench.methods.bottleneck.config import BottleneckConfig
from workbench.methods.bottleneck.structure import FeedForward, feed_forward, linear_sizes
from workbench.methods.peft_layers.precision import dequantized

BASE = "__base__"  # PEFT's name, in mixed batches, for no adapter at all


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """`y + scale * up(dropout(activation(down(z))))`, y the output of the block that it wraps.

    z is y, or, if the adapter is parallel, what the block reads. With a gate, as in the feed-forward blocks of Llama,
    it is `up(dropout(activation(gate(z)) * down(z)))`.

    Several adapters may live on one block; the active ones are applied one behind the other.
    """

    adapter_layer_names: tuple[str, ...] = ("bottleneck_gate", "bottleneck_down", "bottleneck_up")
    other_param_names: tuple[str, ...] = (
        "bottleneck_size",
        "scale",
        "parallel",
        "activation",
        "dropout",
        "block_parts",
    )

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig, width: int) -> None:
        super().__init__()
        self.base_layer = base_layer
        sizes = linear_sizes(base_layer)
        self.in_features, self.out_features = sizes or (width, width)
        self.bottleneck_gate = nn.ModuleDict()
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.dropout = nn.ModuleDict()
        self.activation: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}
        self.bottleneck_size: dict[str, int] = {}
        self.scale: dict[str, float] = {}
        self.parallel: dict[str, bool] = {}
        self.block_parts: dict[str, FeedForward | None] = {}
        self.bias_before: dict[str, torch.Tensor] = {}  # of the last layer of the block, while an adapter is merged
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self.cast_input_dtype_enabled = True
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Add an adapter.

        Its projections into the bottleneck start as linear layers do, or as copies of the block's own neurons, the one
        out of it at zero.
        """
        takes_after_block = config.parallel and config.activation is None
        parts = feed_forward(self.get_base_layer()) if takes_after_block else None
        size = config.bottleneck_size
        width = self.in_features if config.parallel else self.out_features
        self.bottleneck_size[adapter_name], self.scale[adapter_name] = size, config.scale
        self.parallel[adapter_name], self.block_parts[adapter_name] = config.parallel, parts
        self.activation[adapter_name] = parts.activation if parts else ACT2FN[config.activation or "gelu"]
        self.dropout[adapter_name] = nn.Dropout(config.dropout)
        self.bottleneck_down[adapter_name] = nn.Linear(width, size, bias=self._has_bias(parts, "up"))
        if parts and parts.gate:
            self.bottleneck_gate[adapter_name] = nn.Linear(width, size, bias=self._has_bias(parts, "gate"))
        up = nn.Linear(size, self.out_features, bias=self._has_bias(parts, "down"))
        if config.init_weights:
            for parameter in up.parameters():
                nn.init.zeros_(parameter)
        self.bottleneck_up[adapter_name] = up
        if parts and config.init_neurons == "block" and not config.inference_mode:
            self._copy_neurons(adapter_name, parts)
        # A block has no weight of its own that PEFT could ask for its device.
        device = next((p.device for p in self.get_base_layer().parameters()), None)
        if device is None:
            raise ValueError(f"a {type(self.get_base_layer()).__name__} has no weights: it can't be a target")
        self._move_adapter_to_device_of_base_layer(adapter_name, device)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def kind(self, adapter_name: str) -> str:
        """Of a bottleneck: "gated" or "plain", as the block that it stands beside, or of its "own"."""
        if self.block_parts[adapter_name] is None:
            return "own"
        return "gated" if adapter_name in self.bottleneck_gate else "plain"

    @torch.no_grad()
    def _copy_neurons(self, adapter_name: str, parts: FeedForward) -> None:
        """Let the bottleneck read what some of the block's neurons read; if it is wider, the rest stays random."""
        copied: torch.Tensor | None = None
        for name, layers in ((parts.up, self.bottleneck_down), (parts.gate, self.bottleneck_gate)):
            if name is None:
                continue
            source: Any = self.get_base_layer().get_submodule(name)
            mine: Any = layers[adapter_name]
            weight = transpose(dequantized(source), isinstance(source, Conv1D))
            if copied is None:
                copied = torch.randperm(len(weight), device=weight.device)[: len(mine.weight)]
            mine.weight[: len(copied)] = weight[copied].to(mine.weight)
            if mine.bias is not None:
                mine.bias[: len(copied)] = source.bias[copied].to(mine.bias)

    def _has_bias(self, parts: FeedForward | None, name: str) -> bool:
        if parts is None:
            return True
        return self.get_base_layer().get_submodule(getattr(parts, name)).bias is not None

    def update(self, adapter_name: str, z: torch.Tensor) -> torch.Tensor:
        """What an adapter adds; z (..., width) -> (..., width) in the precision of z."""
        down, up = self.bottleneck_down[adapter_name], self.bottleneck_up[adapter_name]
        assert isinstance(down, nn.Linear)
        cast = self._cast_input_dtype(z, down.weight.dtype)
        if adapter_name in self.bottleneck_gate:
            hidden = self.activation[adapter_name](self.bottleneck_gate[adapter_name](cast)) * down(cast)
        else:
            hidden = self.activation[adapter_name](down(cast))
        return (self.scale[adapter_name] * up(self.dropout[adapter_name](hidden))).to(z.dtype)

    def forward(self, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any) -> Any:
        """Whatever the block gives, its hidden states adapted.

        Args:
            args, kwargs: the block's own; the hidden states come first, (batch, length, width).
            adapter_names: for each row of the batch the adapter to use, "__base__" for none; inference only.
        """
        if self.disable_adapters and self.merged:
            self.unmerge()
        output = self.base_layer(*args, **kwargs)
        if self.disable_adapters or self.merged:
            return output
        said = hidden_states(output)
        for name in self.active_adapters if adapter_names is None else dict.fromkeys(adapter_names):
            if name not in self.bottleneck_down:
                continue
            read = read_by(args, kwargs) if self.parallel[name] else said
            if adapter_names is None:
                said = said + self.update(name, read)
                continue
            if len(adapter_names) != len(said):
                raise ValueError(f"{len(adapter_names)} adapter_names for a batch of {len(said)}")
            rows = [row for row, chosen in enumerate(adapter_names) if chosen == name]
            said = said.index_add(0, torch.tensor(rows, device=said.device), self.update(name, read[rows]))
        return with_hidden_states(output, said)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Widen the feed-forward block by parallel adapters.

        A block `down(f(up(x)))` plus `scale * up'(f(down'(x)))` is the same block with the columns of `down'` beside
        those of `up` and the rows of `up'`, scaled, below those of `down`. The configuration of the model has to be
        widened with it, which `BottleneckModel.merge_and_unload` does.

        Raises:
            NotImplementedError: the adapter stands behind its block, or has another activation: then there is
                something between the weights, and no weight of the base can stand for it.
            ValueError: with `safe_merge`, a weight of the adapter is no finite number.
        """
        for name in self._mergeable(adapter_names):
            parts, block = self.block_parts[name], self.get_base_layer()
            assert parts is not None
            pairs = [(parts.up, self.bottleneck_down[name]), (parts.down, self.bottleneck_up[name])]
            if parts.gate:
                pairs.append((parts.gate, self.bottleneck_gate[name]))
            if safe_merge and not all(p.isfinite().all() for _, layer in pairs for p in layer.parameters()):
                raise ValueError(f"NaNs detected in the merged weights. The adapter {name} seems to be broken")
            for target, layer in pairs:
                assert isinstance(layer, nn.Linear)
                if target == parts.down:
                    bias = block.get_submodule(target).bias
                    if isinstance(bias, nn.Parameter):
                        self.bias_before[name] = bias.data.clone()
                    widen_inputs(block.get_submodule(target), layer, self.scale[name])
                else:
                    widen_outputs(block.get_submodule(target), layer)
            self.merged_adapters.append(name)

    def _mergeable(self, adapter_names: list[str] | None) -> list[str]:
        chosen = [n for n in check_adapters_to_merge(self, adapter_names) if n in self.bottleneck_down]
        for name in chosen:
            if self.block_parts[name] is None:
                raise NotImplementedError(
                    "a bottleneck adapter can be merged only beside a feed-forward block and with its own activation"
                )
        return chosen

    @property
    def merged_width(self) -> int:
        """By how much the block is wider for the adapters that are merged into it."""
        return sum(self.bottleneck_size[name] for name in self.merged_adapters)

    def unmerge(self) -> None:
        """Narrow the block again, to exactly what it was; the adapters merged last go first."""
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            parts, block = self.block_parts[name], self.get_base_layer()
            assert parts is not None
            narrow(block, parts, self.bottleneck_size[name])
            if name in self.bias_before:
                block.get_submodule(parts.down).bias.data = self.bias_before.pop(name)

    def __repr__(self) -> str:
        return "bottleneck." + super().__repr__()


def read_by(args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor:
    """Of what a block is given, the hidden states: the first of its arguments, or the one of that name."""
    states = args[0] if args else kwargs["hidden_states"]
    assert isinstance(states, torch.Tensor)
    return states


def hidden_states(output: Any) -> torch.Tensor:
    """Of what a block gives, (batch, length, width): it may give weights and the like besides."""
    states = output[0] if isinstance(output, (tuple, list)) else output
    assert isinstance(states, torch.Tensor)
    return states


def with_hidden_states(output: Any, states: torch.Tensor) -> Any:
    """What a block gives, with other hidden states."""
    if isinstance(output, (tuple, list)):
        rest = [states, *output[1:]]
        return tuple(rest) if isinstance(output, tuple) else rest
    return states


def widen_outputs(linear: Any, more: nn.Linear | int) -> None:
    """Give `linear` the outputs of `more` besides its own, or so many that are always 0."""
    weight, bias = _weight(linear), linear.bias
    if isinstance(more, int):
        rows, offset = weight.new_zeros(more, weight.shape[1]), weight.new_zeros(more)
    else:
        rows = more.weight.data
        offset = weight.new_zeros(len(rows)) if more.bias is None else more.bias.data
    _set_weight(linear, torch.cat([weight, rows.to(weight)]))
    if bias is not None:
        linear.bias = nn.Parameter(torch.cat([bias.data, offset.to(bias)]), requires_grad=bias.requires_grad)


def widen_inputs(linear: Any, more: nn.Linear | int, scale: float = 1.0) -> None:
    """Let `linear` read the inputs of `more` besides its own and add both, or so many that it ignores."""
    weight, bias = _weight(linear), linear.bias
    columns = weight.new_zeros(len(weight), more) if isinstance(more, int) else scale * more.weight.data
    _set_weight(linear, torch.cat([weight, columns.to(weight)], dim=1))
    if not isinstance(more, int) and more.bias is not None:
        assert isinstance(bias, nn.Parameter)
        bias.data = bias.data + (scale * more.bias.data).to(bias)


def narrow(block: nn.Module, parts: FeedForward, size: int) -> None:
    """Take the last `size` inner numbers of a feed-forward block away again."""
    for name in (parts.up, parts.gate):
        if name is not None:
            linear: Any = block.get_submodule(name)
            _set_weight(linear, _weight(linear)[:-size])
            if linear.bias is not None:
                linear.bias = nn.Parameter(linear.bias.data[:-size].clone(), requires_grad=linear.bias.requires_grad)
    down = block.get_submodule(parts.down)
    _set_weight(down, _weight(down)[:, :-size])


def _weight(linear: nn.Module) -> torch.Tensor:
    """The weight of a linear layer, (out, in)."""
    if not isinstance(linear, (nn.Linear, Conv1D)) or not linear.weight.is_floating_point():
        raise NotImplementedError(f"a {type(linear).__name__} can't be widened: merge into a base of floating point")
    return transpose(linear.weight.data, isinstance(linear, Conv1D))


def _set_weight(linear: nn.Module, weight: torch.Tensor) -> None:
    assert isinstance(linear, (nn.Linear, Conv1D))
    stored = transpose(weight, isinstance(linear, Conv1D)).contiguous()
    linear.weight = nn.Parameter(stored, requires_grad=linear.weight.requires_grad)
    outputs, inputs = weight.shape
    if isinstance(linear, Conv1D):
        linear.nx, linear.nf = inputs, outputs
    else:
        linear.in_features, linear.out_features = inputs, outputs
