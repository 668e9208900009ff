"""A linear layer with a bottleneck behind it."""

from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features
from torch import nn
from transformers.activations import ACT2FN

from workbench.methods.bottleneck.config import BottleneckConfig


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """`y + up(dropout(activation(down(y))))` with `y` the output of the base layer.

    Several adapters may live on one base layer; the active ones are applied one behind the other.
    """

    adapter_layer_names: tuple[str, ...] = ("bottleneck_down", "bottleneck_up")
    other_param_names: tuple[str, ...] = ("bottleneck_size",)

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        in_features, out_features = _get_in_out_features(self.get_base_layer())
        assert in_features is not None and out_features is not None
        self.in_features: int = in_features
        self.out_features: int = out_features
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.activation = nn.ModuleDict()
        self.dropout = nn.ModuleDict()
        self.bottleneck_size: dict[str, int] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self.cast_input_dtype_enabled = True
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Add an adapter.

        Its projections take the width of the base layer's output; the down-projection starts as a linear layer
        does, the up-projection at zero.
        """
        self.bottleneck_size[adapter_name] = config.bottleneck_size
        up = nn.Linear(config.bottleneck_size, self.out_features)
        if config.init_weights:
            nn.init.zeros_(up.weight)
            nn.init.zeros_(up.bias)
        self.bottleneck_down[adapter_name] = nn.Linear(self.out_features, config.bottleneck_size)
        self.bottleneck_up[adapter_name] = up
        self.activation[adapter_name] = ACT2FN[config.activation]
        self.dropout[adapter_name] = nn.Dropout(config.dropout)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """A bottleneck has an activation in it, so no weight of the base can stand for it.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("a bottleneck adapter can't be merged into the layer before it")

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map `x` of shape (..., in_features) to (..., out_features), in the base layer's precision."""
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        for name in self.active_adapters:
            if name not in self.bottleneck_down:
                continue
            down, up = self.bottleneck_down[name], self.bottleneck_up[name]
            assert isinstance(down, nn.Linear)
            hidden = self.activation[name](down(self._cast_input_dtype(result, down.weight.dtype)))
            result = result + up(self.dropout[name](hidden)).to(result.dtype)
        return result

    def __repr__(self) -> str:
        return "bottleneck." + super().__repr__()
