"""Shorter ways to the same numbers.

What replaces a formula of somebody else's (norm, gated block, rotation) is taken only where it was seen to give the
same. All are put in place for as long as a training lasts and taken away again, so that nothing of them stays in a
model that is saved, merged or evaluated.
"""

from collections.abc import Iterator
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

__all__ = ["fast_training"]


@contextmanager
def fast_training(model: nn.Module) -> Iterator[int]:
    """While the block runs, train `model` along the fast paths. Yields how many modules take one."""
    forwards = {}
    for module in model.modules():
        forward = fast_rms_norm(module) or fast_gated(module) or fast_bottleneck(module) or fast_gelu(module)
        if forward is not None:
            forwards[module] = forward
    groups = grouped_projections(model)
    shared: dict[Any, torch.Tensor] = {}
    with ExitStack() as stack:
        for group in groups:
            stack.callback(group.part_storage)
            group.share_storage(shared)
            forwards.update(group.forwards())
        for module, forward in forwards.items():
            if "forward" not in vars(module):  # somebody else's, such as accelerate's for several devices, stays
                stack.callback(delattr, module, "forward")
                module.forward = forward
        stack.enter_context(fast_rotary(model))
        yield len(forwards)
