"""The bodies of compiled loops, and the arithmetic of bfloat16 that they are made of.

Each body runs over the rows from `begin` to `end`; its docstring names the arguments from slot `FIRST` of `a` on. What
it reads by `elements` and `load` and writes by `store` is bfloat16 or float32: see `compiled`.
Imported when a loop is first called: numba is needed here and nowhere else.
"""

from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, float32, njit, types, uint32
from numba.extending import intrinsic

from workbench.models.fast.compiled import CHUNK, FIRST, ROWS, SLOTS

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


def _pointer(element: Any, of_llvm: Any) -> Any:
    """A function of compiled code that makes an address of an integer."""
    return _converter(
        types.CPointer(element), types.int64, lambda builder, x: builder.inttoptr(x, of_llvm.as_pointer())
    )


_pointer8 = _pointer(types.int8, ir.IntType(8))
_pointer_unsigned8 = _pointer(types.uint8, ir.IntType(8))
_pointer16 = _pointer(types.uint16, ir.IntType(16))
_pointer_int32 = _pointer(types.int32, ir.IntType(32))
_pointer32 = _pointer(types.float32, ir.FloatType())
_pointer64 = _pointer(types.int64, ir.IntType(64))
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

    What is no number stays none: a loss that is lost must be seen. Otherwise 2**n times a polynomial on the rest;
    adding 1.5 * 2**23 rounds to the nearest n and leaves it in the lowest bits.
    """
    no_number, nothing = np.isnan(x), x < float32(-87)
    x = float32(0) if nothing or no_number else x
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
    y = float32(0) if nothing else y
    return float32(np.nan) if no_number else y


@njit_exact
def bfloat16s(numbers: Any, slot: int, start: int, count: int) -> Any:
    """The bits of `count` elements of the bfloat16 tensor in `slot`, the first of them `start` elements in."""
    return carray(_pointer16(numbers[slot] + 2 * start), count)


@njit_exact
def int8s(numbers: Any, slot: int, start: int, count: int) -> Any:
    """`count` bytes of the tensor in `slot`, the first of them `start` bytes in, as int8."""
    return carray(_pointer8(numbers[slot] + start), count)


@njit_exact
def uint8s(numbers: Any, slot: int, start: int, count: int) -> Any:
    """`count` bytes of the tensor in `slot`, the first of them `start` bytes in."""
    return carray(_pointer_unsigned8(numbers[slot] + start), count)


@njit_exact
def int32s(numbers: Any, slot: int, start: int, count: int) -> Any:
    """`count` elements of the int32 tensor in `slot`, the first of them `start` elements in."""
    return carray(_pointer_int32(numbers[slot] + 4 * start), count)


@njit_exact
def same(x: Any) -> Any:
    """x: how a float32 is loaded and stored."""
    return x


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


# `compiled` puts float32's in their place.
elements = bfloat16s


def normalize(begin: int, end: int, a: Any) -> None:
    """x, weight, result, scale, width, eps -> x * scale * weight, scale = 1 / sqrt(mean(x**2) + eps)."""
    width, eps = a[FIRST + 4], number(a, FIRST + 5)
    weight, scales = float32s(a, FIRST + 1, 0, width), float32s(a, FIRST + 3, begin, end - begin)
    for row in range(begin, end):
        x, result = elements(a, FIRST, row * width, width), elements(a, FIRST + 2, row * width, width)
        squares = float32(0)
        for i in range(width):
            squares += load(x[i]) * load(x[i])
        scale = float32(1) / np.sqrt(squares / float32(width) + eps)
        scales[row - begin] = scale
        for i in range(width):
            result[i] = store(load(x[i]) * scale * weight[i])


def normalize_backward(begin: int, end: int, a: Any) -> None:
    """x, weight, scale, gradient, result, width -> the gradient of x."""
    width = a[FIRST + 5]
    weight, scales = float32s(a, FIRST + 1, 0, width), float32s(a, FIRST + 2, begin, end - begin)
    for row in range(begin, end):
        x, gradient = elements(a, FIRST, row * width, width), elements(a, FIRST + 3, row * width, width)
        result = elements(a, FIRST + 4, row * width, width)
        along = float32(0)
        for i in range(width):
            along += load(gradient[i]) * weight[i] * load(x[i])
        scale = scales[row - begin]
        back = along * scale * scale * scale / float32(width)
        for i in range(width):
            result[i] = store(load(gradient[i]) * weight[i] * scale - load(x[i]) * back)


def swish(begin: int, end: int, a: Any) -> None:
    """gate, its stride, up, its stride, result, width -> silu(gate) * up."""
    width = a[FIRST + 5]
    for row in range(begin, end):
        gate = elements(a, FIRST, row * a[FIRST + 1], width)
        up = elements(a, FIRST + 2, row * a[FIRST + 3], width)
        result = elements(a, FIRST + 4, row * width, width)
        for i in range(width):
            g = load(gate[i])
            result[i] = store(g / (float32(1) + exp(-g)) * load(up[i]))


def swish_backward(begin: int, end: int, a: Any) -> None:
    """gate, its stride, up, its stride, gradient, two results, width -> the gradients of gate and up."""
    width = a[FIRST + 7]
    for row in range(begin, end):
        gate = elements(a, FIRST, row * a[FIRST + 1], width)
        up = elements(a, FIRST + 2, row * a[FIRST + 3], width)
        gradient = elements(a, FIRST + 4, row * width, width)
        gate_gradient = elements(a, FIRST + 5, row * width, width)
        up_gradient = elements(a, FIRST + 6, row * width, width)
        for i in range(width):
            g, back = load(gate[i]), load(gradient[i])
            sigmoid = float32(1) / (float32(1) + exp(-g))
            gate_gradient[i] = store(back * load(up[i]) * sigmoid * (float32(1) + g * (float32(1) - sigmoid)))
            up_gradient[i] = store(back * g * sigmoid)


def rotate(begin: int, end: int, a: Any) -> None:
    """x, result, cos, sin; heads, length, width; strides of x, of the result and of cos and sin; the direction.

    Row by row of x (batch, heads, length, width): `x * cos + rotate_half(x) * sin`, or the rotation back.
    """
    heads, length, width, back = a[FIRST + 4], a[FIRST + 5], a[FIRST + 6], a[FIRST + 14]
    half = width // 2
    # The rotation back is the transposed one: the other sign, and each half with the other's sine.
    turn, lower = (float32(-1), half) if back else (float32(1), 0)
    for row in range(begin, end):
        example, head, position = row // (heads * length), row // length % heads, row % length
        x = elements(a, FIRST, example * a[FIRST + 7] + head * a[FIRST + 8] + position * a[FIRST + 9], width)
        y = elements(a, FIRST + 1, example * a[FIRST + 10] + head * a[FIRST + 11] + position * a[FIRST + 12], width)
        angles = example * a[FIRST + 13] + position * width
        cos, sin = elements(a, FIRST + 2, angles, width), elements(a, FIRST + 3, angles, width)
        for i in range(half):
            first, second = load(x[i]), load(x[half + i])
            y[i] = store(first * load(cos[i]) - turn * second * load(sin[lower + i]))
            y[half + i] = store(second * load(cos[half + i]) + turn * first * load(sin[half - lower + i]))


def softmax(begin: int, end: int, a: Any) -> None:
    """scores, mask; columns, rows of an example, length, two strides of the mask; scaling.

    Each row of the scores, times the scaling and with its row of the mask added, becomes its softmax.
    """
    columns, rows, length, scaling = a[FIRST + 2], a[FIRST + 3], a[FIRST + 4], number(a, FIRST + 7)
    wide = np.empty(columns, np.float32)
    for row in range(begin, end):
        scores = elements(a, FIRST, row * columns, columns)
        mask = elements(a, FIRST + 1, row // rows * a[FIRST + 5] + row % length * a[FIRST + 6], columns)
        most, total = float32(-np.inf), float32(0)
        for i in range(columns):
            wide[i] = load(scores[i]) * scaling + load(mask[i])
            most = wide[i] if wide[i] > most else most
        for i in range(columns):
            wide[i] = exp(wide[i] - most)
            total += wide[i]
        for i in range(columns):
            scores[i] = store(wide[i] / total)


def softmax_backward(begin: int, end: int, a: Any) -> None:
    """gradient, weights, columns, scaling: the gradient of the weights becomes that of the scores."""
    columns, scaling = a[FIRST + 2], number(a, FIRST + 3)
    for row in range(begin, end):
        gradient, weights = elements(a, FIRST, row * columns, columns), elements(a, FIRST + 1, row * columns, columns)
        along = float32(0)
        for i in range(columns):
            along += load(gradient[i]) * load(weights[i])
        for i in range(columns):
            gradient[i] = store((load(gradient[i]) - along) * load(weights[i]) * scaling)


def cross_entropy(begin: int, end: int, a: Any) -> None:
    """logits, targets, losses, columns, whether the logits become their gradient: row by row."""
    columns, backwards = a[FIRST + 3], a[FIRST + 4]
    targets, losses = int64s(a, FIRST + 1, begin, end - begin), float32s(a, FIRST + 2, begin, end - begin)
    wide = np.empty(columns, np.float32)
    for row in range(begin, end):
        logits, target = elements(a, FIRST, row * columns, columns), targets[row - begin]
        most, total = float32(-np.inf), float32(0)
        for i in range(columns):
            most = load(logits[i]) if load(logits[i]) > most else most
        for i in range(columns):
            wide[i] = exp(load(logits[i]) - most)
            total += wide[i]
        losses[row - begin] = np.log(total) + most - load(logits[target])
        if backwards:
            for i in range(columns):
                logits[i] = store(wide[i] / total)
            logits[target] = store(wide[target] / total - float32(1))


def widen_int8(begin: int, end: int, a: Any) -> None:
    """codes, scale of each row, result, its stride, width -> codes * scale."""
    width = a[FIRST + 4]
    scales = float32s(a, FIRST + 1, begin, end - begin)
    for row in range(begin, end):
        codes = int8s(a, FIRST, row * width, width)
        result = bfloat16s(a, FIRST + 2, row * a[FIRST + 3], width)
        scale = scales[row - begin]
        for i in range(width):
            result[i] = store(float32(codes[i]) * scale)


def widen_nf4(begin: int, end: int, a: Any) -> None:
    """codes, scale of each block, table of 16, result, its stride, width, block -> table[code] * scale.

    Two codes a byte, the first one in its upper half; blocks end where rows end.
    """
    width, block = a[FIRST + 5], a[FIRST + 6]
    table, blocks = float32s(a, FIRST + 2, 0, 16), width // block
    for row in range(begin, end):
        codes = int8s(a, FIRST, row * width // 2, width // 2)
        scales = float32s(a, FIRST + 1, row * blocks, blocks)
        result = bfloat16s(a, FIRST + 3, row * a[FIRST + 4], width)
        for number in range(blocks):
            scale, first = scales[number], number * block // 2
            for i in range(first, first + block // 2):
                code = codes[i]
                result[2 * i] = store(table[(code >> 4) & 15] * scale)
                result[2 * i + 1] = store(table[code & 15] * scale)


def quantize(begin: int, end: int, a: Any) -> None:
    """x, its stride, factor of each column, codes, step of each row, width, range.

    x * factor = (code - range - 1) * step, rounded, with codes from 1 to 2 * range + 1. The step of a row with infinity
    or what is no number is no number either.
    """
    width, most = a[FIRST + 5], number(a, FIRST + 6)
    factors, steps = float32s(a, FIRST + 2, 0, width), float32s(a, FIRST + 4, begin, end - begin)
    for row in range(begin, end):
        x, codes = elements(a, FIRST, row * a[FIRST + 1], width), uint8s(a, FIRST + 3, row * width, width)
        largest, lost = float32(0), float32(0)
        for i in range(width):
            size = abs(load(x[i]) * factors[i])
            largest = size if size > largest else largest
            lost += size * float32(0)
        steps[row - begin] = largest / most + lost
        inverse = most / largest if largest > float32(0) else float32(0)
        for i in range(width):
            codes[i] = types.uint8(load(x[i]) * factors[i] * inverse + (most + float32(1.5)))


def add_integers(begin: int, end: int, a: Any) -> None:
    """result, its stride; products, step of each row, scale of each column, what is added to each product; width.

    result + (products - added) * step * scale.
    """
    width = a[FIRST + 6]
    steps = float32s(a, FIRST + 3, begin, end - begin)
    scales, added = float32s(a, FIRST + 4, 0, width), int32s(a, FIRST + 5, 0, width)
    for row in range(begin, end):
        result = elements(a, FIRST, row * a[FIRST + 1], width)
        products, step = int32s(a, FIRST + 2, row * width, width), steps[row - begin]
        for i in range(width):
            result[i] = store(load(result[i]) + float32(products[i] - added[i]) * (step * scales[i]))


def compiled(name: str, wide: bool) -> Any:
    """The body called `name`, taking parts of the rows until there are none left; its `address` is the entry point.

    Args:
        wide: for tensors in float32, not in bfloat16.
    """
    access = {"elements": float32s, "load": same, "store": same} if wide else {}
    body = njit_sum(FunctionType(globals()[name].__code__, {**globals(), **access}))

    @cfunc(types.void(types.CPointer(types.int64)))
    def run(pointer: Any) -> None:
        numbers = carray(pointer, SLOTS)
        rows, chunk = numbers[ROWS], numbers[CHUNK]
        begin = _take(pointer) * chunk
        while begin < rows:
            body(begin, min(begin + chunk, rows), numbers)
            begin = _take(pointer) * chunk

    return run
