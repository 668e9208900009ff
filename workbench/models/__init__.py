"""Models: load base and tokenizer, attach a method, compute along the fast paths."""

from workbench.models.fast import fast_evaluation, fast_training
from workbench.models.load import (
    BITS,
    Size,
    attach,
    bfloat16_is_fast,
    context_length,
    default_bits,
    device,
    keep_memory,
    load_dequantized,
    load_model,
    load_tokenizer,
    rehearse,
    release_memory,
    require_weights,
    size,
)
from workbench.models.output import has_plain_output, linear_cross_entropy, output_layer, output_of, output_weight

__all__ = [
    "BITS",
    "Size",
    "attach",
    "bfloat16_is_fast",
    "context_length",
    "default_bits",
    "device",
    "fast_evaluation",
    "fast_training",
    "has_plain_output",
    "keep_memory",
    "linear_cross_entropy",
    "load_dequantized",
    "load_model",
    "load_tokenizer",
    "output_layer",
    "output_of",
    "output_weight",
    "rehearse",
    "release_memory",
    "require_weights",
    "size",
]
