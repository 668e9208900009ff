"""In how many bits llama.cpp holds each weight, and the bits themselves, made by llama.cpp's own code."""

import ctypes
import importlib.util
from functools import cache
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from workbench.export.formats.gguf.runtime import require_llama_cpp

F32, F16, Q8_0 = GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.Q8_0
Q4_K, Q5_0, Q6_K = GGMLQuantizationType.Q4_K, GGMLQuantizationType.Q5_0, GGMLQuantizationType.Q6_K
FILE_TYPES = {
    "f32": LlamaFileType.ALL_F32,
    "f16": LlamaFileType.MOSTLY_F16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
    "q4_k_m": LlamaFileType.MOSTLY_Q4_K_M,
}
# For rows that are no multiple of a block of the first: the next best.
FALLBACK = {Q4_K: Q5_0, Q6_K: Q8_0, Q8_0: F16, Q5_0: F16}
# Of blocks, those at the beginning and the end, and every third between them, count more.
EDGE, EVERY = 8, 3


def held_as(name: str, shape: tuple[int, ...], quantization: str, blocks: int, tied: bool) -> GGMLQuantizationType:
    """How a weight is held in a file of a quantization, as `llama-quantize` chooses it.

    Args:
        name: of llama.cpp.
        shape: (out, in), or (width,).
        blocks: of the model.
        tied: the embeddings are the output layer, too.
    """
    if quantization == "f32" or len(shape) < 2 or "norm" in name or name.startswith(("position_embd", "token_types")):
        return F32
    if quantization == "f16":
        return F16
    wanted = Q8_0 if quantization == "q8_0" else _mixed(name, blocks, tied)
    while shape[-1] % GGML_QUANT_SIZES[wanted][0]:
        wanted = FALLBACK[wanted]
    return wanted


def _mixed(name: str, blocks: int, tied: bool) -> GGMLQuantizationType:
    """The mixture called Q4_K_M: six bits for the output layer, and for half of the values and outputs of blocks."""
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        return Q6_K
    if "attn_v" in name or "ffn_down" in name or "attn_qkv" in name:
        block = int(name.split(".")[1])
        more = block < blocks // EDGE or block >= 7 * blocks // EDGE or (block - blocks // EDGE) % EVERY == 2
        if more and "attn_qkv" not in name:
            return Q6_K
    return Q4_K


def bytes_of(shape: tuple[int, ...], held: GGMLQuantizationType) -> int:
    """Bytes of a weight."""
    block, size = GGML_QUANT_SIZES[held]
    return int(np.prod(shape)) // block * size


def as_held(weight: np.ndarray, held: GGMLQuantizationType) -> np.ndarray:
    """The bytes of a weight, (out, in) in float32, as they stand in the file.

    Raises:
        UserError: llama.cpp is not installed, which quantizes.
    """
    if held == F32:
        return weight.astype(np.float32)
    if held == F16:
        return weight.astype(np.float16)
    rows, row = weight.shape
    source, target = np.ascontiguousarray(weight, np.float32), np.zeros((rows, bytes_of((1, row), held)), np.uint8)
    written = _library().ggml_quantize_chunk(
        int(held), source.ctypes.data_as(ctypes.c_void_p), target.ctypes.data_as(ctypes.c_void_p), 0, rows, row, None
    )
    assert written == target.nbytes, f"{written} of {target.nbytes} bytes were written"
    return target


@cache
def _library() -> Any:
    """llama.cpp, as the package xllamacpp brings it.

    Raises:
        UserError: it is not installed.
    """
    require_llama_cpp()
    found = importlib.util.find_spec("xllamacpp.xllamacpp")
    assert found is not None
    assert found.origin is not None
    library = ctypes.CDLL(found.origin)
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    ]  # fmt: skip
    return library
