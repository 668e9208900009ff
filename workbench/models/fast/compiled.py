"""Loops over rows of bfloat16 or float32, compiled for this processor and run on PyTorch's own threads.

Between two matrix products a CPU is bound by memory: a formula of five operations costs five passes over an
activation where one would do. PyTorch fuses such formulas with a C++ compiler, which a user's machine need not
have; numba brings its own. Its threads, however, would fight for the cores with PyTorch's, which keep spinning for
milliseconds after each operation. So a loop is started through the OpenMP library that PyTorch itself has loaded.
"""

import ctypes
import os
import struct
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

# A loop's array of numbers: in slot 0 a counter of the chunks taken, then the rows, the rows of a chunk, its arguments.
ROWS, CHUNK, FIRST = 1, 2, 3
PRECISIONS = {torch.bfloat16, torch.float32}
SLOTS = 24


@cache
def _openmp() -> ctypes.CDLL | None:
    """PyTorch's OpenMP library, if it is GNU's, whose entry point for compiled code is known."""
    if "ATen parallel backend: OpenMP" not in torch.__config__.parallel_info() or find_spec("numba") is None:
        return None
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")):
        try:
            library = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        except OSError:  # not the one in use
            continue
        library.GOMP_parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        library.GOMP_parallel.restype = None
        return library
    return None


def can_compile(*tensors: torch.Tensor) -> bool:
    """Whether compiled loops serve `tensors`: they are on a CPU and all of one precision, bfloat16 or float32, which
    autocast leaves alone, and numba and PyTorch's threads can be reached.
    """
    precisions = {tensor.dtype for tensor in tensors}
    return (
        all(tensor.device.type == "cpu" for tensor in tensors)
        and len(precisions) <= 1
        and precisions <= PRECISIONS
        and not (torch.float32 in precisions and torch.is_autocast_enabled("cpu"))
        and _openmp() is not None
        and not torch.compiler.is_compiling()
    )


class Loop:
    """A loop over rows, compiled when it is first called.

    Args:
        name: of its body in `workbench.models.fast.loops`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._codes: dict[bool, Any] = {}

    def __call__(self, rows: int, *arguments: torch.Tensor | int | float) -> None:
        """Run over `rows` rows. Tensors are read and written where they lie: strides are arguments, too.

        The precision is that of the first tensor.

        Args:
            arguments: what the docstring of the body names, floats as floats: an integer would be taken for the bits
                of one.
        """
        if rows == 0:
            return
        first = next(argument for argument in arguments if isinstance(argument, torch.Tensor))
        wide = first.dtype == torch.float32
        if wide not in self._codes:
            from workbench.models.fast.loops import compiled

            self._codes[wide] = compiled(self.name, wide)
        threads = torch.get_num_threads()
        numbers = (ctypes.c_int64 * SLOTS)(0, rows, max(1, rows // (4 * threads)), *map(_slot, arguments))
        library = _openmp()
        assert library is not None
        library.GOMP_parallel(self._codes[wide].address, numbers, threads, 0)


def _slot(argument: torch.Tensor | int | float) -> int:
    if isinstance(argument, torch.Tensor):
        if not argument.is_cpu:
            raise TypeError(f"a compiled loop reads memory of the host, and a tensor is on {argument.device}")
        return argument.data_ptr()
    if isinstance(argument, float):
        return int(struct.unpack("q", struct.pack("d", argument))[0])
    return argument
