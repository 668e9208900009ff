"""The tuner: which layers of a model get a bottleneck."""

from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import nn
from transformers import PretrainedConfig
from transformers.pytorch_utils import Conv1D

from workbench.methods.bottleneck.config import BottleneckConfig
from workbench.methods.bottleneck.layer import BottleneckLayer
from workbench.methods.bottleneck.structure import output_projections


class BottleneckModel(BaseTuner):
    """Bottleneck adapters after attention and feed-forward blocks (Houlsby et al. 2019, arXiv:1902.00751).

    Works on every base whose layers are linear, quantized ones included: the adapter sees only the output of the
    layer it stands behind.
    """

    prefix: str = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012  found in the model, not listed by type

    def _prepare_model(self, peft_config: PeftConfig, model: nn.Module) -> None:
        assert isinstance(peft_config, BottleneckConfig)
        if peft_config.target_modules is None:
            peft_config.target_modules = set(output_projections(model))  # type: ignore[assignment]

    @staticmethod
    def _prepare_adapter_config(peft_config: PeftConfig, model_config: dict[str, Any]) -> PeftConfig:
        return peft_config

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        assert isinstance(peft_config, BottleneckConfig)
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, peft_config)
            return
        if not isinstance(target, (nn.Linear, Conv1D)):
            raise ValueError(f"{current_key} is a {type(target).__name__}: bottlenecks go behind linear layers")
        layer = BottleneckLayer(target, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    @staticmethod
    def get_model_config(model: nn.Module) -> dict[str, Any]:
        """The configuration of the base, for PEFT."""
        config = getattr(model, "config", {})
        return config.to_dict() if isinstance(config, PretrainedConfig) else dict(config)
