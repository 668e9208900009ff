"""The frozen weights of a base split among the processes that train it together (FSDP, arXiv:2304.11277).

Each process holds its part of every frozen weight. Before a layer computes, the parts of its weights are gathered, and
afterwards they are given back, so that next to the parts of all layers a device holds one or two layers whole.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from workbench.device import device, on_cpu
from workbench.errors import MethodError
from workbench.fsdp import Fsdp
from workbench.models.lower import layers_of


def split_frozen(model: nn.Module, fsdp: Fsdp) -> None:
    """Keep of each frozen weight this process's part; every process has to call this for the same model.

    Args:
        model: with a method attached, on the host or the device. Afterwards it is on the device, but for the parts of
            its frozen weights where they are to stay on the host.

    Raises:
        MethodError: all weights are trained, or the frozen ones are quantized.
    """
    from torch.distributed import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

    place = device()
    whole = {one for one in model.parameters() if one.requires_grad or one.dim() == 0}
    frozen = [one for one in model.parameters() if one not in whole]
    if not frozen:
        raise MethodError("FSDP splits frozen weights, and this method trains them all: take a multi-GPU configuration")
    if not all(one.is_floating_point() for one in frozen):
        raise MethodError("FSDP splits weights of 32 or 16 bits, not quantized ones: take --bits 16, or no FSDP")
    for tensor in (*whole, *model.buffers()):
        tensor.data = tensor.data.to(place)
    offloads = fsdp.offload and not on_cpu()  # on a CPU they are there already
    options: Any = {
        "mesh": init_device_mesh(place.type, (torch.distributed.get_world_size(),)),
        "offload_policy": CPUOffloadPolicy() if offloads else OffloadPolicy(),
        "ignored_params": whole,
    }
    for layer in layers_of(model):
        fully_shard(layer, reshard_after_forward=fsdp.reshard, **options)
    # What lies in no layer is read outside of them, too: embeddings by prompts, the output layer by the loss.
    fully_shard(model, reshard_after_forward=False, **options)


def is_split(model: nn.Module) -> bool:
    """Whether `split_frozen` was called for the model."""
    return next(split_weights(model), None) is not None


def split_weights(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The weights of which this process holds a part, by name."""
    from torch.distributed.tensor import DTensor

    return ((name, one) for name, one in model.named_parameters() if isinstance(one, DTensor))
