"""The tuner: which blocks of a model get a bottleneck, and what they become when it is merged."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import nn
from transformers import PretrainedConfig

from workbench.methods.bottleneck.config import BottleneckConfig
from workbench.methods.bottleneck.layer import BASE, BottleneckLayer, widen_inputs, widen_outputs
from workbench.methods.bottleneck.structure import (
    ATTENTION,
    FEED_FORWARD,
    blocks,
    feed_forward,
    linear_sizes,
    width_of,
    width_setting,
)

PATTERNS = {"attention": ATTENTION, "feed_forward": FEED_FORWARD}


class BottleneckModel(BaseTuner):
    """Bottleneck adapters behind or beside attention and feed-forward blocks (Houlsby et al. 2019, arXiv:1902.00751).

    Works on every base, quantized ones included: an adapter sees only what the block reads and says.
    """

    prefix: str = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012  found in the model, not listed by type

    def _prepare_model(self, peft_config: PeftConfig, model: nn.Module) -> None:
        assert isinstance(peft_config, BottleneckConfig)
        if peft_config.target_modules is None:
            chosen = peft_config.layers_to_transform
            # PEFT itself looks at the layer's number only where target_modules are not whole names.
            only = {chosen} if isinstance(chosen, int) else set(chosen or ())
            peft_config.target_modules = {  # type: ignore[assignment]
                name
                for place in peft_config.places
                for number, name in enumerate(blocks(model, PATTERNS[place]))
                if not only or number in only
            }

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Put an adapter into `model`.

        Raises:
            ValueError: it was made for a base whose blocks are of other kinds.
        """
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        config: Any = self.peft_config[adapter_name]
        layers = [module for module in model.modules() if isinstance(module, BottleneckLayer)]
        kinds = dict(
            sorted(Counter(layer.kind(adapter_name) for layer in layers if adapter_name in layer.scale).items())
        )
        if config.kinds is not None and config.kinds != kinds:
            raise ValueError(
                f"this adapter has bottlenecks of the kinds {_counts(config.kinds)}; on the {type(model).__name__} "
                f"that it is put into they would be {_counts(kinds)}: that is another base than it was trained on"
            )
        config.kinds = kinds

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
        layer = BottleneckLayer(target, adapter_name, peft_config, width_of(self.model))
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        """Put a layer in the place of its block, or the block back. PEFT's own expects a block to have one weight."""
        setattr(parent, child_name, new_module)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """PEFT's way to mixed batches: `adapter_names` of a forward or `generate` reaches every layer."""
        names = kwargs.get("adapter_names")
        if names is None:
            yield
            return
        if self.training:
            raise ValueError("adapter_names are for inference: the model is in training mode")
        unknown = set(names) - set(self.peft_config) - {BASE}
        if unknown:
            raise ValueError(
                f"no adapter {', '.join(sorted(unknown))}; there are {', '.join(sorted(self.peft_config))}"
            )
        names = [name for name in names for _ in range(kwargs.get("num_beams") or 1)]
        give = partial(_give_names, names=names)
        layers = [module for module in self.modules() if isinstance(module, BottleneckLayer)]
        hooks = [layer.register_forward_pre_hook(give, with_kwargs=True) for layer in layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _unload_and_optionally_merge(  # type: ignore[override]  # PEFT's says None and returns the model
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        """Take the adapters away; merging widens the feed-forward blocks and the configuration with them.

        Raises:
            NotImplementedError: an adapter that can't be merged, or an architecture whose configuration can't express
                the wider blocks.
        """
        if merge and (reason := self.why_not_merged(adapter_names)):
            raise NotImplementedError(reason)
        setting = width_setting(self.model) if merge else None
        super()._unload_and_optionally_merge(merge, progressbar, safe_merge, adapter_names)
        model: nn.Module = self.model
        if setting is not None:
            setattr(model.config.get_text_config(), setting, _even_out(model))  # type: ignore[union-attr,operator]
        return model

    def why_not_merged(self, adapter_names: list[str] | None = None) -> str | None:
        """Why adapters (the active ones, if none are named) can't become weights of the base; None if they can."""
        for layer in self.model.modules():
            if isinstance(layer, BottleneckLayer):
                mine = [name for name in adapter_names or self.active_adapters if name in layer.bottleneck_down]
                if not all(layer.parallel[name] for name in mine):
                    return (
                        "a bottleneck behind a block, with an activation in it, is no weight of the plain architecture"
                    )
                if any(layer.block_parts[name] is None for name in mine):
                    return (
                        "the bottleneck is not of the kind of the block that it stands beside "
                        f"({type(layer.get_base_layer()).__name__}), and so can't be a part of it"
                    )
        if width_setting(self.model) is None:
            return f"{type(self.model).__name__} has no setting for the width of its feed-forward blocks"
        return None

    @staticmethod
    def get_model_config(model: nn.Module) -> dict[str, Any]:
        """The configuration of the base, for PEFT."""
        config = getattr(model, "config", {})
        return config.to_dict() if isinstance(config, PretrainedConfig) else dict(config)


def _counts(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


def _give_names(layer: nn.Module, args: Any, kwargs: Any, names: list[str]) -> tuple[Any, Any]:
    return args, {**kwargs, "adapter_names": names}


def _even_out(model: nn.Module) -> int:
    """Make all feed-forward blocks as wide as the widest, with zeros; returns that width."""
    found = [(block, feed_forward(block)) for block in map(model.get_submodule, blocks(model, FEED_FORWARD))]
    known = [(block, parts) for block, parts in found if parts is not None]
    widths = [linear_sizes(block.get_submodule(parts.up))[1] for block, parts in known]  # type: ignore[index]
    for (block, parts), width in zip(known, widths, strict=True):
        if missing := max(widths) - width:
            for name in (parts.up, parts.gate):
                if name is not None:
                    widen_outputs(block.get_submodule(name), missing)
            widen_inputs(block.get_submodule(parts.down), missing)
    return max(widths)
