"""Shorter ways to the same numbers, taken only where they were seen to be the same.

Each is put on a module's `forward` for as long as a training lasts and taken off again, so that nothing of it
stays in a model that is saved, merged or evaluated.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

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
        forward = fast_rms_norm(module) or fast_gated(module) or fast_bottleneck(module)
        if forward is not None:
            forwards[module] = forward
    groups = grouped_projections(model)
    for group in groups:
        group.share_storage()
        forwards.update(group.forwards())
    for module, forward in forwards.items():
        module.forward = forward
    try:
        with fast_rotary(model):
            yield len(forwards)
    finally:
        for module in forwards:
            del module.forward
        for group in groups:
            group.part_storage()
