"""A second device for machines without one: `fakegpu`, whose memory is the CPU's.

Tensors on it are real (PyTorch's PrivateUse1 device, with storages of their own, autograd, optimizers and autocast);
each operation is computed by the CPU's kernel on the same memory. What CUDA refuses is refused: an operation on tensors
of both devices, but where CUDA allows it, and to read its memory from Python or from compiled code. Its memory is
counted and can be bounded. No compiler is needed: a tensor of the CPU becomes one of `fakegpu` by a changed field of
its DLPack capsule.

    python tests/fake_device.py SCRIPT ARGUMENT ...     runs a script where there is such a device
"""

import ctypes
import functools
import os
import runpy
import stat
import sys
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "fakegpu"
# In the environment: "1" for a device without float64, as Apple's are.
NO_FLOAT64 = "FAKE_DEVICE_NO_FLOAT64"
# Its memory where no limit is set.
WHOLE = 2**34

aten = torch.ops.aten
CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
WITHOUT_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
KDL_EXTENSION = 12  # the number of DLPack's for such a device
INDEXED = ("aten::index", "aten::index_put_", "aten::_index_put_impl_", "aten::index_put")
# What works on the memory as it is, or only changes how it is looked at.
VIEWS = (
    "as_strided", "view", "_reshape_alias", "unfold",
    "set_.source_Storage_storage_offset", "set_.source_Storage", "set_.source_Tensor",
)  # fmt: skip
# Of what autocast computes in the lower precision on CUDA, and of what it computes in float32.
LOWER = ("mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "scaled_dot_product_attention", "einsum", "mv")
WIDER = (
    "softmax.int", "log_softmax.int", "cross_entropy_loss", "nll_loss", "layer_norm", "rsqrt", "exp", "log",
    "pow.Tensor_Scalar", "sum", "cumsum", "nll_loss_forward", "native_layer_norm", "norm.Scalar", "cosh", "softplus",
)  # fmt: skip

_kept: list[Any] = []


class Memory:
    """What lies on the device, in bytes.

    Attributes:
        live, peak: now, and at most since `reset`.
        limit: past which there is no memory left; None for `WHOLE`, which nothing bounds.
    """

    live = peak = 0
    limit: int | None = None

    @classmethod
    def buffer(cls, size: int) -> torch.Tensor:
        """New memory, as bytes of the CPU.

        Raises:
            torch.OutOfMemoryError: there is not so much left.
        """
        if cls.limit is not None and cls.live + size > cls.limit:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes, {cls.live} are in use")
        array = np.empty(max(8, size), np.uint8)
        cls.live += size
        cls.peak = max(cls.peak, cls.live)
        weakref.finalize(array, cls._free, size)
        return torch.from_numpy(array)

    @classmethod
    def _free(cls, size: int) -> None:
        cls.live -= size

    @classmethod
    def reset(cls) -> None:
        """Let the peak begin anew."""
        cls.peak = cls.live

    @classmethod
    def whole(cls) -> int:
        """Of the device."""
        return WHOLE if cls.limit is None else cls.limit


class DeviceMixError(RuntimeError):
    """What CUDA would refuse."""


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("index", ctypes.c_int32))


class _Tensor(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("device", _Device))


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def is_fake(value: Any) -> bool:
    """Whether it is a tensor on the device."""
    return isinstance(value, torch.Tensor) and value.device.type == NAME


def to_fake(cpu: torch.Tensor) -> torch.Tensor:
    """The same tensor on the device, in memory of its own."""
    if cpu.dtype == torch.float64 and os.environ.get(NO_FLOAT64) == "1":
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
    cpu = cpu.detach().resolve_conj().resolve_neg()
    elements = sum((n - 1) * step for n, step in zip(cpu.shape, cpu.stride(), strict=True)) + 1 if cpu.numel() else 0
    owned = Memory.buffer(elements * cpu.element_size())[: elements * cpu.element_size()].view(cpu.dtype)
    owned = owned.as_strided(cpu.shape, cpu.stride()).copy_(cpu) if elements else owned.reshape(cpu.shape)
    capsule = torch._C._to_dlpack(owned)
    ctypes.cast(_pointer(capsule, b"dltensor"), ctypes.POINTER(_Tensor)).contents.device.kind = KDL_EXTENSION
    return torch._C._from_dlpack(capsule)


def as_cpu(fake: torch.Tensor) -> torch.Tensor:
    """The same memory as a tensor of the CPU, which lives no longer than `fake`."""
    storage = fake.untyped_storage()
    if storage.nbytes() == 0:
        return torch.empty(fake.shape, dtype=fake.dtype)
    seen = torch._C._construct_storage_from_data_pointer(storage.data_ptr(), torch.device("cpu"), storage.nbytes())
    return torch.empty(0, dtype=fake.dtype).set_(seen, fake.storage_offset(), fake.size(), fake.stride())


def _require_one_device(op: Any, arguments: Any) -> None:
    tensors = [x for x in pytree.tree_leaves(arguments) if isinstance(x, torch.Tensor)]
    others = [x for x in tensors if x.device.type == "cpu" and x.dim() > 0]
    if not others or not any(map(is_fake, tensors)):
        return
    if op._schema.name in INDEXED and is_fake(arguments[0][0]):
        return
    found = [(tuple(x.shape), x.device.type) for x in tensors]
    raise DeviceMixError(f"Expected all tensors to be on the same device, but found {NAME}:0 and cpu! ({op}: {found})")


def _computed(op: Any, *args: Any, **kwargs: Any) -> Any:
    """What any other operation gives: the CPU's kernel on the same memory, in new memory of the device."""
    _require_one_device(op, (args, kwargs))
    originals: dict[int, torch.Tensor] = {}
    seen: list[torch.Tensor] = []

    def lowered(x: Any) -> Any:
        if is_fake(x):
            seen.append(as_cpu(x))
            originals[id(seen[-1])] = x
            return seen[-1]
        if isinstance(x, torch.device) and x.type == NAME:
            return torch.device("cpu")
        return None if isinstance(x, torch.Generator) else x

    args, kwargs = pytree.tree_map(lowered, (args, kwargs))
    args = tuple(  # the dispatcher hands a number that stands for a tensor over as a number
        torch.tensor(x) if isinstance(x, bool | int | float) and isinstance(place.type, torch.TensorType) else x
        for x, place in zip(args, op._schema.arguments, strict=False)
    )
    if "pin_memory" in kwargs:
        kwargs["pin_memory"] = None
    if op._schema.name == "aten::histc" and not args[0].is_floating_point():  # CUDA counts integers, too
        return to_fake(op(args[0].float(), *args[1:], **kwargs).to(args[0].dtype))
    before = {id(x): (x.data_ptr(), x.shape, x.stride()) for x in seen}
    with torch.no_grad():
        result = op(*args, **kwargs)
    for x in seen:
        if before[id(x)] != (x.data_ptr(), x.shape, x.stride()):  # an `out` that was made larger
            place = (to_fake(x).untyped_storage(), x.storage_offset(), list(x.shape), list(x.stride()))
            aten.set_.source_Storage_storage_offset.redispatch(CPU, originals[id(x)], *place)
    pointers = {x.untyped_storage().data_ptr() for x in seen if x.untyped_storage().nbytes()}

    def lifted(x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        if id(x) in originals:
            return originals[id(x)]
        if x.untyped_storage().nbytes() and x.untyped_storage().data_ptr() in pointers:
            raise NotImplementedError(f"{op} gave a view of what it was given")
        return to_fake(x)

    return pytree.tree_map(lifted, result)


def _empty(size: Any, dtype: Any = None, **_: Any) -> torch.Tensor:
    return to_fake(torch.empty(size, dtype=dtype or torch.get_default_dtype()))


def _empty_strided(size: Any, stride: Any, dtype: Any = None, **_: Any) -> torch.Tensor:
    found = to_fake(torch.empty_strided(size, stride, dtype=dtype or torch.get_default_dtype()))
    if found.stride() != tuple(stride):
        found = aten.as_strided.default.redispatch(CPU, found, size, stride, 0)
    return found


def _copy_(self: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    target, given = (as_cpu(x) if is_fake(x) else x.detach() for x in (self, source))
    with torch.no_grad():
        target.copy_(given)
    return self


def _resize_(self: torch.Tensor, size: Any, memory_format: Any = None) -> torch.Tensor:
    count = int(np.prod([int(one) for one in size])) if size else 1
    storage, offset = self.untyped_storage(), self.storage_offset()
    if count * self.element_size() > storage.nbytes():
        storage, offset = to_fake(torch.empty(count, dtype=self.dtype)).untyped_storage(), 0
    strides = torch.empty(list(size), device="meta").stride()
    aten.set_.source_Storage_storage_offset.redispatch(CPU, self, storage, offset, list(size), list(strides))
    return self


def _operation(name: str) -> Any:
    return functools.reduce(getattr, (name if "." in name else f"{name}.default").split("."), aten)


def _on_memory(op: Any) -> Any:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        return op.redispatch(CPU, *args, **kwargs)

    return kernel


def _cast(op: Any, precision: Any) -> Any:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        def one(x: Any) -> Any:
            return x.to(precision()) if is_fake(x) and x.is_floating_point() and x.dtype != torch.float64 else x

        with torch._C._ExcludeDispatchKeyGuard(WITHOUT_AUTOCAST):
            return op(*pytree.tree_map(one, args), **pytree.tree_map(one, kwargs))

    return kernel


class _Module:
    """What `torch.fakegpu` is."""

    _initialized = True

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def set_device(self, device: Any) -> None:
        return None

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        return None

    def manual_seed(self, seed: int) -> None:
        return None

    def device_count(self) -> int:
        return 1

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def get_rng_state(self, *_: Any) -> torch.Tensor:
        return torch.get_rng_state()  # what is drawn on the device is drawn by the CPU

    def set_rng_state(self, state: torch.Tensor, *_: Any) -> None:
        torch.set_rng_state(state)

    def get_rng_state_all(self) -> Sequence[torch.Tensor]:
        return [torch.get_rng_state()]

    def set_rng_state_all(self, states: Sequence[torch.Tensor]) -> None:
        torch.set_rng_state(states[0])


@functools.cache
def install() -> torch.device:
    """Register the device for this process, once and for all."""
    _setup_privateuseone_for_python_backend(NAME, _Module())
    library = torch.library.Library("aten", "IMPL")
    for name, kernel in {
        "empty.memory_format": _empty,
        "empty_strided": _empty_strided,
        "copy_": _copy_,
        "resize_": _resize_,
        **{name: _on_memory(_operation(name)) for name in VIEWS},
    }.items():
        library.impl(name, kernel, "PrivateUse1")
    for name in LOWER:
        library.impl(name, _cast(_operation(name), lambda: torch.get_autocast_dtype(NAME)), "AutocastPrivateUse1")
    for name in WIDER:
        library.impl(name, _cast(_operation(name), lambda: torch.float32), "AutocastPrivateUse1")
    rest = torch.library.Library("_", "IMPL")
    rest.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    rest.fallback(_computed, "PrivateUse1")
    _kept.extend((library, rest))
    _count_memory()
    os.environ["ACCELERATE_TORCH_DEVICE"] = f"{NAME}:0"
    return torch.device(NAME, 0)


def _count_memory() -> None:
    """Let `torch.accelerator` tell what PyTorch knows of allocators in C++ only."""
    told: dict[str, Any] = {
        "memory_allocated": lambda *_: Memory.live,
        "memory_reserved": lambda *_: Memory.live,
        "max_memory_allocated": lambda *_: Memory.peak,
        "reset_peak_memory_stats": lambda *_: Memory.reset(),
        "get_memory_info": lambda *_: (Memory.whole() - Memory.live, Memory.whole()),
        "synchronize": lambda *_: None,
        "empty_cache": lambda: None,
    }
    for name, function in told.items():
        setattr(torch.accelerator, name, function)


def for_bitsandbytes() -> None:
    """bitsandbytes puts an int8 weight of a device into a parameter of the CPU, which PyTorch allows for CUDA only."""
    import bitsandbytes as bnb

    def quantize(self: Any, device: Any) -> Any:
        codes, scales, _ = bnb.functional.int8_vectorwise_quant(self.data.contiguous().to(device, torch.float16))
        return bnb.nn.Int8Params(codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=scales)

    bnb.nn.Int8Params._quantize = quantize


@contextmanager
def fresh_process() -> Iterator[Any]:
    """A `FreshProcess` whose Python registers the device, too."""
    from workbench.export import FreshProcess

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        python = Path(folder) / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" "$@"\n')
        python.chmod(python.stat().st_mode | stat.S_IXUSR)
        patch.setattr(sys, "executable", str(python))
        with FreshProcess() as reader:
            yield reader


if __name__ == "__main__":
    sys.argv = [one for one in sys.argv[1:] if one not in ("-E", "-P")]
    install()
    runpy.run_path(sys.argv[0], run_name="__main__")
