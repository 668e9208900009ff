"""Loops over rows of bfloat16, compiled for this processor and run on PyTorch's own threads.

Between two matrix products a CPU is bound by memory: a formula of five operations costs five passes over an
activation where one would do. PyTorch fuses such formulas with a C++ compiler, which a user's machine need not
have; numba brings its own. Its threads, however, would fight for the cores with PyTorch's, which keep spinning for
milliseconds after each operation. So a loop is started through the OpenMP library that PyTorch itself has loaded.
"""

import ctypes
import os
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from llvmlite import ir
from numba import carray, cfunc, float32, njit, types, uint32
from numba.extending import intrinsic

# Slots of a loop's array of numbers before its own arguments: a counter of rows taken, the rows, rows taken at once.
TAKEN, ROWS, CHUNK, FIRST = 0, 1, 2, 3
SLOTS = 24
# Division by zero gives infinity, as in PyTorch: a check for it at each element would prevent vector instructions.
# Sums may be added up in another order.
njit_sum = njit(fastmath={"reassoc", "contract", "nsz", "arcp"}, error_model="numpy")
njit_exact = njit(fastmath={"contract"}, error_model="numpy")


def _converter(result: Any, argument: Any, instruction: Callable[[Any, Any], Any]) -> Any:
    """A function of compiled code that is one instruction of LLVM."""

    @intrinsic
    def convert(typing: Any, value: Any) -> Any:
        return result(argument), lambda context, builder, signature, arguments: instruction(builder, arguments[0])

    return convert


_float_of_bits = _converter(types.float32, types.uint32, lambda builder, x: builder.bitcast(x, ir.FloatType()))
_bits_of_float = _converter(types.uint32, types.float32, lambda builder, x: builder.bitcast(x, ir.IntType(32)))
_double_of_bits = _converter(types.float64, types.int64, lambda builder, x: builder.bitcast(x, ir.DoubleType()))
_pointer16 = _converter(
    types.CPointer(types.uint16), types.int64, lambda builder, x: builder.inttoptr(x, ir.IntType(16).as_pointer())
)
_pointer32 = _converter(
    types.CPointer(types.float32), types.int64, lambda builder, x: builder.inttoptr(x, ir.FloatType().as_pointer())
)
_pointer64 = _converter(
    types.CPointer(types.int64), types.int64, lambda builder, x: builder.inttoptr(x, ir.IntType(64).as_pointer())
)
_take = _converter(  # of the counter at an address, 1 more: returns what it was
    types.int64,
    types.CPointer(types.int64),
    lambda builder, x: builder.atomic_rmw("add", x, ir.Constant(ir.IntType(64), 1), "monotonic"),
)


@njit_exact
def load(bits: Any) -> Any:
    """The float32 of a bfloat16's bits."""
    return _float_of_bits(uint32(bits) << uint32(16))


@njit_exact
def store(x: Any) -> Any:
    """The bits of the bfloat16 nearest to a float32, of two equally near the even one."""
    bits = _bits_of_float(x)
    return types.uint16((bits + uint32(0x7FFF) + ((bits >> uint32(16)) & uint32(1))) >> uint32(16))


@njit_exact
def exp(x: Any) -> Any:
    """e**x in float32 within two units of the last place (Cephes' expf); 0 below -87, and no more than e**88.

    2**n times a polynomial on the rest; adding 1.5 * 2**23 rounds to the nearest n and leaves it in the lowest bits.
    """
    nothing = x < float32(-87)
    x = float32(0) if nothing else x
    x = x if x < float32(88) else float32(88)
    shifted = x * float32(1.4426950408889634) + float32(12582912)
    n = shifted - float32(12582912)
    r = x - n * float32(0.693359375) - n * float32(-2.12194440e-4)
    p = float32(1.9875691500e-4)
    p = p * r + float32(1.3981999507e-3)
    p = p * r + float32(8.3334519073e-3)
    p = p * r + float32(4.1665795894e-2)
    p = p * r + float32(1.6666665459e-1)
    p = p * r + float32(5.0000001201e-1)
    p = p * r * r + r + float32(1)
    y = _float_of_bits(_bits_of_float(p) + (_bits_of_float(shifted) << uint32(23)))
    return float32(0) if nothing else y


@njit_exact
def bfloat16s(numbers: Any, slot: int, start: int, count: int) -> Any:
    """The bits of `count` elements of the bfloat16 tensor in `slot`, the first of them `start` elements in."""
    return carray(_pointer16(numbers[slot] + 2 * start), count)


@njit_exact
def float32s(numbers: Any, slot: int, start: int, count: int) -> Any:
    """`count` elements of the float32 tensor in `slot`, the first of them `start` elements in."""
    return carray(_pointer32(numbers[slot] + 4 * start), count)


@njit_exact
def int64s(numbers: Any, slot: int, start: int, count: int) -> Any:
    """`count` elements of the int64 tensor in `slot`, the first of them `start` elements in."""
    return carray(_pointer64(numbers[slot] + 8 * start), count)


@njit_exact
def number(numbers: Any, slot: int) -> Any:
    """The float in `slot`, as float32."""
    return float32(_double_of_bits(numbers[slot]))


@cache
def _openmp() -> ctypes.CDLL | None:
    """PyTorch's OpenMP library, if it is GNU's, whose entry point for compiled code is known."""
    if "OpenMP" not in torch.__config__.parallel_info():
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
    """Whether compiled loops serve `tensors`: bfloat16 on a CPU, and PyTorch's threads can be reached."""
    return _openmp() is not None and all(
        tensor.device.type == "cpu" and tensor.dtype == torch.bfloat16 for tensor in tensors
    )


class Loop:
    """A loop over rows, compiled when it is first called.

    Args:
        body: `(begin, end, numbers)`, over the rows from `begin` to `end`. `numbers` holds the arguments of the call
            from slot `FIRST` on: addresses of tensors, integers, and the bits of floats.
    """

    def __init__(self, body: Callable[[int, int, Any], None]) -> None:
        self._body = body
        self._address: int | None = None
        self.__doc__ = body.__doc__

    def __call__(self, rows: int, *arguments: torch.Tensor | int | float) -> None:
        """Run over `rows` rows. Tensors are read and written where they lie: strides are arguments, too."""
        if rows == 0:
            return
        if self._address is None:
            self._address = self._compile()
        threads = torch.get_num_threads()
        numbers = (ctypes.c_int64 * SLOTS)(0, rows, max(1, rows // (4 * threads)), *map(_slot, arguments))
        library = _openmp()
        assert library is not None
        library.GOMP_parallel(self._address, numbers, threads, 0)

    def _compile(self) -> int:
        body = njit_sum(self._body)

        @cfunc(types.void(types.CPointer(types.int64)))
        def run(pointer: Any) -> None:
            numbers = carray(pointer, SLOTS)
            rows, chunk = numbers[ROWS], numbers[CHUNK]
            begin = _take(pointer) * chunk
            while begin < rows:
                body(begin, min(begin + chunk, rows), numbers)
                begin = _take(pointer) * chunk

        self._run, address = run, run.address  # whoever keeps `run` keeps its machine code
        assert address is not None
        return address


def _slot(argument: torch.Tensor | int | float) -> int:
    if isinstance(argument, torch.Tensor):
        return argument.data_ptr()
    if isinstance(argument, float):
        return int(struct.unpack("q", struct.pack("d", argument))[0])
    return argument
