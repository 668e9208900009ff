"""The layers below the lowest trained one: frozen, so what they give for a text is the same at every step.

Nothing is propagated back through them, since nothing there has a gradient. What they give forwards need be computed
only once for a text, and not for every epoch, seed and method (feature extraction, as of a frozen network; by methods
that adapt the upper layers only, `layers_to_transform`).
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from workbench.models.head import head_name, head_of
from workbench.models.probe import read_short_text


class FrozenLayers:
    """The layers of a model below the lowest that is trained.

    Attributes:
        count: how many; 0 where their outputs would not always be the same, or are no single tensor.
        width: of the hidden states that leave them.
        dtype: of the hidden states that leave them, in the precision in which the model computes.
    """

    def __init__(self, model: nn.Module, autocast: bool) -> None:
        layers = layers_of(model)
        self._layers = layers[: _frozen_below(model, layers)]
        self._rest: int | None = None
        self.count, self.width, self.dtype = 0, 0, torch.float32
        if not self._layers:
            return
        with torch.autocast(next(model.parameters()).device.type, torch.bfloat16, enabled=autocast):
            states = self._read(model)
            if states is not None and self._is_all(model, states):
                self.count, self.width, self.dtype = len(self._layers), states.shape[2], states.dtype

    def _read(self, model: nn.Module) -> torch.Tensor | None:
        """What the layers give for a short text while the model is trained; None if that is by chance, or no tensor."""
        found: list[Any] = []
        handle = self._layers[-1].register_forward_hook(lambda module, given, output: found.append(output))
        try:
            with torch.random.fork_rng():
                for _ in range(2):  # dropout and the like draw twice
                    read_short_text(model, training=True)
        finally:
            handle.remove()
        self._rest = len(found[0]) - 1 if isinstance(found[0], tuple) else None
        states = [one[0] if isinstance(one, tuple) else one for one in found]
        if len(states) != 2 or not all(torch.is_tensor(one) and one.dim() == 3 for one in states):
            return None
        return states[0] if torch.equal(*states) else None

    def _is_all(self, model: nn.Module, states: torch.Tensor) -> bool:
        """Whether upper layers read nothing else of the lower ones, such as their keys and values."""
        expected = _output(read_short_text(model))
        try:
            with self.giving(states):
                return torch.equal(_output(read_short_text(model)), expected)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError, RuntimeError):
            return False

    @contextmanager
    def giving(self, states: torch.Tensor) -> Iterator[None]:
        """Let the layers compute nothing, and the last of them give `states`, (batch, length, width)."""
        with ExitStack() as stack:
            for layer in self._layers:
                stack.callback(_restored, layer, vars(layer).get("forward"))
                layer.forward = self._given(states if layer is self._layers[-1] else None)
            yield

    @contextmanager
    def taking(self) -> Iterator[list[torch.Tensor]]:
        """Note what the last of the layers gives, (batch, length, width)."""
        found: list[torch.Tensor] = []

        def note(module: nn.Module, given: Any, output: Any) -> None:
            found.append((output[0] if isinstance(output, tuple) else output).detach())

        handle = self._layers[-1].register_forward_hook(note)
        try:
            yield found
        finally:
            handle.remove()

    def _given(self, states: torch.Tensor | None) -> Any:
        def forward(hidden_states: torch.Tensor, *_: Any, **__: Mapping[str, Any]) -> Any:
            out = hidden_states if states is None else states.to(hidden_states.device)
            return out if self._rest is None else (out, *[None] * self._rest)

        return forward


def _restored(layer: nn.Module, forward: Any) -> None:
    if forward is None:
        del layer.forward  # the class's own is found again
    else:
        layer.forward = forward


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The model's layers, the lowest first; none where no list of modules has as many as its configuration says."""
    config = model.config.get_text_config()  # type: ignore[union-attr,operator]
    count = getattr(config, "num_hidden_layers", None)
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == count)
    return list(next(lists, []))


def _frozen_below(model: nn.Module, layers: list[nn.Module]) -> int:
    """How many layers stand below the lowest that is trained; 0 where something that is trained stands in no layer.

    But for a head of classes, what stands above all layers is not told from what stands below.
    """
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        return 0
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
    above = {id(parameter) for parameter in head_of(model).parameters()} if head_name(model) else set()
    if not trained - above <= inside:
        return 0
    touched = [number for number, layer in enumerate(layers) if trained & {id(p) for p in layer.parameters()}]
    return min(touched, default=0)


def _output(found: Any) -> torch.Tensor:
    output: torch.Tensor = found if torch.is_tensor(found) else found.logits
    return output
