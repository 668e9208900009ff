"""What a checkpoint says of itself, and what of it is refused before it is loaded."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.errors import UserError

# The format of gpt-oss's experts.
MXFP4 = "mxfp4"
# A model may have so many times the numbers of its files: tied weights stand there once, packed ones in one number.
PACKED = 4
# Weights that are never quantized.
WHOLE = re.compile(r"embed|wte|wpe|lm_head", re.IGNORECASE)


def read_config(path: Path) -> Any:
    """The configuration of the checkpoint in the folder `path`, as transformers reads it.

    Raises:
        UserError: it can't.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # whatever transformers makes of a file that is another's
        raise UserError(f"{path}: transformers can't read its config.json: {first_line(error)}") from error


def context_length(path: Path) -> int | None:
    """Most tokens that the model in the folder `path` can read at once, where its configuration says so.

    Raises:
        UserError: the configuration can't be read.
    """
    return getattr(read_config(path).get_text_config(), "max_position_embeddings", None)


def require_weights(path: Path, bits: int) -> None:
    """Refuse a checkpoint whose weights are quantized already, where they can't be made what `bits` asks for.

    Raises:
        UserError: they are.
    """
    if (kind := quantized_by(path)) and (kind != MXFP4 or bits < 16):
        raise UserError(
            f"the weights in {path} are quantized already ({kind}): they can't be held at {bits} bits; "
            + ("take --bits 16" if kind == MXFP4 else "give the checkpoint from which they were made")
        )


def require_causal(path: Path) -> None:
    """Refuse an encoder, such as BERT, whose tokens see what stands behind them: it would be asked for what it reads.

    Raises:
        UserError: the checkpoint is one.
    """
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    config = read_config(path)
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False):
        raise UserError(
            f"{path} is no causal language model: {config.model_type} is an encoder, whose tokens see what stands "
            "behind them. Take a model of the GPT kind"
        )


def require_sizes(path: Path) -> None:
    """Refuse a configuration that asks for a far larger model than its weights make.

    transformers builds what the configuration says, whatever the files hold: two thousand million layers, or a
    vocabulary that fills the memory.

    Raises:
        UserError: it does, or one of the files can't be read.
    """
    shapes = _shapes(path)
    config, numbers = read_config(path), sum(math.prod(shape) for shape in shapes.values())
    layers = getattr(config.get_text_config(), "num_hidden_layers", 0)
    if not isinstance(layers, int) or layers > len(shapes):
        raise UserError(
            f"{path}: its config.json asks for {layers!r} layers, and its weights are {len(shapes)} tensors"
        )
    if (count := sum(map(math.prod, weight_shapes(path).values()))) > PACKED * numbers:
        raise UserError(f"{path}: its config.json asks for {count:,} parameters, and its weights have {numbers:,}")


def weight_shapes(path: Path) -> dict[str, Sequence[int]]:
    """The shapes of all weights of the model in the folder `path`, by name, however its files hold them.

    Raises:
        UserError: transformers can't make such a model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            planned: Any = AutoModelForCausalLM.from_config(read_config(path), trust_remote_code=False)
    except Exception as error:  # whatever transformers makes of a file that is another's
        raise UserError(f"{path} can't be loaded as a causal language model: {first_line(error)}") from error
    return {name: tuple(weight.shape) for name, weight in planned.named_parameters()}


def held_bytes(shapes: Mapping[str, Sequence[int]], bits: int) -> int:
    """How much memory weights take when they are held at 32, 16, 8 or 4 bits.

    Of 8 and 4 bits are the matrices between embeddings and output layer; at 4 bits their scales take a sixteenth more.

    Args:
        shapes: of the weights, by name.
    """
    whole = 4 if bits == 32 else 2
    held = whole if bits >= 16 else bits / 8 * (17 / 16 if bits == 4 else 1)
    found = 0.0
    for name, shape in shapes.items():
        quantized = len(shape) == 2 and not WHOLE.search(name)
        found += math.prod(shape) * (held if quantized else whole)
    return int(found)


def _shapes(path: Path) -> dict[str, Sequence[int]]:
    """The shapes of all tensors in the folder `path`, by name.

    Raises:
        UserError: a file of weights can't be read.
    """
    from safetensors import SafetensorError, safe_open

    found: dict[str, Sequence[int]] = {}
    for file in sorted(path.glob("*.safetensors")):
        try:
            with safe_open(file, framework="numpy") as weights:
                found |= {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{file} can't be read as safetensors: {first_line(error)}") from error
    return found


def quantized_by(path: Path) -> str | None:
    """How the weights are quantized already; None if they are not."""
    settings = getattr(read_config(path), "quantization_config", None)
    if settings is None:
        return None
    return str(settings["quant_method"] if isinstance(settings, dict) else settings.quant_method)


def first_line(error: Exception) -> str:
    """An error of a library in a line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
