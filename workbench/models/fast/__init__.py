"""Shorter ways to the same numbers.

What replaces a formula of somebody else's (norm, gated block, rotation) is taken only where it was seen to give the
same. All are put in place for as long as a training or an evaluation lasts and taken away again, so that nothing of
them stays in a model that is saved or merged.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from workbench.models.fast.activations import fast_gelu
from workbench.models.fast.bottleneck import fast_bottleneck
from workbench.models.fast.gated import fast_gated
from workbench.models.fast.norms import fast_rms_norm
from workbench.models.fast.projections import grouped_projections
from workbench.models.fast.rotary import fast_rotary
from workbench.models.split import is_split

__all__ = ["fast_evaluation", "fast_training"]


@contextmanager
def fast_training(model: nn.Module) -> Iterator[int]:
    """While the block runs, train `model` along the fast paths. Yields how many modules take one.

    None does where the frozen weights are split: they are whole only while a layer computes.
    """
    if is_split(model):
        yield 0
        return
    forwards = _forwards(model)
    groups = grouped_projections(model)
    shared: dict[Any, torch.Tensor] = {}
    with ExitStack() as stack:
        for group in groups:
            stack.callback(group.part_storage)
            group.share_storage(shared)
            forwards.update(group.forwards())
        _put_in_place(forwards, stack)
        stack.enter_context(fast_rotary(model))
        yield len(forwards)


@contextmanager
def fast_evaluation(model: nn.Module) -> Iterator[None]:
    """While the block runs, compute norms, gates and rotations of `model` in one pass each.

    A model on a quantized base is left alone: its scores are to be those of the code that its users run.
    """
    with ExitStack() as stack:
        if all(parameter.is_floating_point() for parameter in model.parameters()):
            _put_in_place(_forwards(model), stack)
            stack.enter_context(fast_rotary(model))
        yield


def _forwards(model: nn.Module) -> dict[nn.Module, Callable[..., Any]]:
    """What takes the place of the `forward` of modules, where it gives the same."""
    found: dict[nn.Module, Callable[..., Any]] = {}
    for module in model.modules():
        forward = fast_rms_norm(module) or fast_gated(module) or fast_bottleneck(module) or fast_gelu(module)
        if forward is not None:
            found[module] = forward
    return found


def _put_in_place(forwards: Mapping[nn.Module, Callable[..., Any]], stack: ExitStack) -> None:
    for module, forward in forwards.items():
        if "forward" not in vars(module):  # somebody else's, such as accelerate's for several devices, stays
            stack.callback(delattr, module, "forward")
            module.forward = forward
