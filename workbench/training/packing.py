"""What optimizers, schedulers and random generators know, as safetensors and JSON: reading it runs nothing."""

import random
from collections.abc import Mapping, MutableMapping
from typing import Any

import numpy as np
import torch

from workbench.device import device, on_cpu

# In JSON, the kinds of value that JSON itself doesn't have; each is an object with one of these keys.
TENSOR, ARRAY, PAIRS, TUPLE = "tensor", "array", "pairs", "tuple"


def packed(value: Any, tensors: MutableMapping[str, torch.Tensor]) -> Any:
    """`value` for JSON; the tensors in it go into `tensors`, under names that stand in their place.

    Args:
        value: nested dictionaries, lists and tuples of tensors, arrays, strings, numbers, booleans and None.

    Raises:
        TypeError: something else is in it.
    """
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {TENSOR: name}
    if isinstance(value, np.ndarray):
        return {ARRAY: value.tolist(), "dtype": str(value.dtype)}
    if isinstance(value, Mapping):
        return {PAIRS: [[packed(key, tensors), packed(one, tensors)] for key, one in value.items()]}
    if isinstance(value, tuple):
        return {TUPLE: [packed(one, tensors) for one in value]}
    if isinstance(value, list):
        return [packed(one, tensors) for one in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise TypeError(f"a {type(value).__name__} can't be kept for a training that goes on")


def unpacked(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """What `packed` made its value of.

    Raises:
        KeyError: a tensor is missing.
    """
    if isinstance(value, list):
        return [unpacked(one, tensors) for one in value]
    if not isinstance(value, dict):
        return value
    if TENSOR in value:
        return tensors[value[TENSOR]]
    if ARRAY in value:
        return np.array(value[ARRAY], dtype=value["dtype"])
    if TUPLE in value:
        return tuple(unpacked(one, tensors) for one in value[TUPLE])
    return {unpacked(key, tensors): unpacked(one, tensors) for key, one in value[PAIRS]}


def random_state() -> dict[str, Any]:
    """Of all generators that a training may draw from."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "accelerator": None if on_cpu() else torch.get_device_module(device()).get_rng_state(),
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Go on with a `random_state`; that of a device is left out where models are held on the CPU now."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if not on_cpu() and state.get("accelerator") is not None:
        torch.get_device_module(device()).set_rng_state(state["accelerator"])
