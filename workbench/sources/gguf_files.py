"""Checkpoints in GGUF: looked through before any library reads them, then written anew as safetensors.

A header says how many entries, characters, tensors and blocks there are, and readers believe it: a file of a few bytes
can ask for all memory, or for a model of two thousand million blocks. Here every number is held against what the file
has.
"""

import copy
import logging
import math
import mmap
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench import files
from workbench.errors import UserError

logger = logging.getLogger(__name__)

MAGIC = b"GGUF"
VERSIONS = (2, 3)
# The kinds of values in a header, by their numbers (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, LIST = 8, 9
MOST_DIMENSIONS = 4
ALIGNMENT = "general.alignment"
USUAL_ALIGNMENT = 32
# Under the name of the architecture: the number of blocks, and what is a width of some tensor.
BLOCKS = "block_count"
WIDTHS = (
    "embedding_length", "feed_forward_length", "expert_feed_forward_length", "attention.head_count",
    "attention.head_count_kv", "attention.key_length", "attention.value_length", "expert_count",
    "expert_used_count", "rope.dimension_count", "vocab_size",
)  # fmt: skip
# A model may have so many times the numbers that are in its file: a tied output layer stands there once.
TIED = 2


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a GGUF file holds.

    Attributes:
        values: by name; of a list its length.
        shapes: of the tensors, by name.
    """

    values: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def numbers(self) -> int:
        """In all tensors."""
        return sum(map(math.prod, self.shapes.values()))


def read_header(file: Path) -> Header:
    """Look through a GGUF file, as far as its weights.

    Raises:
        UserError: it is none, was cut off, or says something of itself that it does not hold.
    """
    with _said(file):
        if file.stat().st_size < len(MAGIC):
            raise ValueError("it is empty or cut off")
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            header = _header(_Reader(content), len(content))
        _require_sizes(header)
    return header


def convert_gguf(file: Path, folder: Path) -> None:
    """Write the checkpoint in a GGUF file to `folder` as half-precision safetensors with tokenizer and configs.

    transformers marks a model that it read from GGUF as quantized and refuses to save it, so the weights go
    into a fresh model made from the same configuration.

    Raises:
        UserError: the file is broken, or of an architecture that transformers does not read from GGUF.
    """
    header = read_header(file)
    logger.info("converting %s to safetensors, once", file.name)
    with _said(file):
        model, tokenizer = _read(file, header)
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except Exception as error:
        files.raise_if_full(error, folder)
        raise


def _read(file: Path, header: Header) -> tuple[Any, Any]:
    """Model and tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    place = {"gguf_file": file.name, "trust_remote_code": False}
    with torch.device("meta"):
        planned = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(file.parent, **place))
    if (count := sum(weight.numel() for weight in planned.parameters())) > TIED * header.numbers:
        raise ValueError(f"its model would have {count:,} parameters, and it holds {header.numbers:,}")
    read = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **place)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, **place)
    config = copy.deepcopy(read.config)
    del config.quantization_config
    config._name_or_path = file.name.removesuffix(".gguf")
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    missing, unexpected = model.load_state_dict(read.state_dict(), strict=False)
    tied = set(model._tied_weights_keys or ())
    if unexpected or set(missing) - tied:
        raise ValueError(f"missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    model.generation_config = read.generation_config
    model.to(torch.float16)
    if not all(torch.isfinite(weight).all() for weight in model.parameters()):
        raise ValueError("weights out of the range of half precision")
    return model, tokenizer


@contextmanager
def _said(file: Path) -> Iterator[None]:
    """Errors as a line with the file."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # whatever the libraries make of a file that is another's
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{file.name} can't be read as GGUF: {told[0]}") from error


class _Reader:
    """Reads a header, and nothing beyond the end of the file."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self.place = 0

    def bytes(self, count: int) -> bytes:
        if count > len(self._content) - self.place:
            raise ValueError(f"it is cut off at byte {self.place:,}, or says a length that is wrong")
        self.place += count
        return self._content[self.place - count : self.place]

    def number(self, form: str) -> Any:
        (value,) = struct.unpack(f"<{form}", self.bytes(struct.calcsize(f"<{form}")))
        return value

    def text(self) -> str:
        return self.bytes(self.number("Q")).decode("utf-8")

    def value(self, kind: int) -> Any:
        """A number or a text; of a list its length."""
        if kind == TEXT:
            return self.text()
        if kind != LIST:
            return self.number(_form(kind))
        inner, count = self.number("I"), self.number("Q")
        if inner == TEXT:
            for _ in range(count):
                self.bytes(self.number("Q"))
        else:
            self.bytes(count * struct.calcsize(f"<{_form(inner)}"))
        return count


def _form(kind: int) -> str:
    if kind not in NUMBERS:
        raise ValueError(f"a value of the unknown kind {kind}")
    return NUMBERS[kind]


def _header(reader: _Reader, size: int) -> Header:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if reader.bytes(len(MAGIC)) != MAGIC:
        raise ValueError("it does not begin with GGUF")
    if (version := reader.number("I")) not in VERSIONS:
        raise ValueError(f"version {version}; known: {', '.join(map(str, VERSIONS))}")
    tensors, entries = reader.number("Q"), reader.number("Q")
    values: dict[str, Any] = {}
    for _ in range(entries):
        name = reader.text()
        if name in values:
            raise ValueError(f"{name!r} stands there twice")
        values[name] = reader.value(reader.number("I"))
    shapes: dict[str, tuple[int, ...]] = {}
    ends = 0
    for _ in range(tensors):
        name, dimensions = reader.text(), reader.number("I")
        if name in shapes:
            raise ValueError(f"tensor {name!r} stands there twice")
        if dimensions > MOST_DIMENSIONS:
            raise ValueError(f"tensor {name!r} has {dimensions} dimensions")
        shapes[name] = tuple(reader.number("Q") for _ in range(dimensions))
        block, stored = GGML_QUANT_SIZES[GGMLQuantizationType(reader.number("I"))]
        ends = max(ends, reader.number("Q") + math.prod(shapes[name]) // block * stored)
    alignment = values.get(ALIGNMENT, USUAL_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"{ALIGNMENT} is {alignment!r}")
    begin = -(-reader.place // alignment) * alignment
    if begin + ends > size:
        raise ValueError(f"its tensors would end at byte {begin + ends:,}, and it has {size:,}")
    return Header(values=values, shapes=shapes)


def _require_sizes(header: Header) -> None:
    """See that what is said of the model is not more than the file can hold.

    Raises:
        ValueError: it is.
    """
    architecture = header.values.get("general.architecture")
    if not isinstance(architecture, str):
        raise ValueError("it names no general.architecture")
    widest = max((width for shape in header.shapes.values() for width in shape), default=0)
    bounds = {BLOCKS: len(header.shapes), **dict.fromkeys(WIDTHS, widest)}
    for name, most in bounds.items():
        said = header.values.get(f"{architecture}.{name}", 0)
        if not isinstance(said, int) or not 0 <= said <= most:
            raise ValueError(
                f"{architecture}.{name} is {said!r}, and its {len(header.shapes)} tensors hold at most {most}"
            )
