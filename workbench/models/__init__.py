"""Models: load base and tokenizer, attach a method, compute along the fast paths."""

from workbench.models.attach import Size, attach, check_attachment, size
from workbench.models.fast import fast_evaluation, fast_training
from workbench.models.load import BITS, context_length, load_dequantized, load_model, load_tokenizer, require_weights
from workbench.models.memory import keep_memory, release_memory
from workbench.models.output import has_linear_output, linear_cross_entropy, output_layer, output_of, output_weight
from workbench.models.precision import bfloat16_is_fast, default_bits, device

__all__ = [
    "BITS",
    "Size",
    "attach",
    "bfloat16_is_fast",
    "check_attachment",
    "context_length",
    "default_bits",
    "device",
    "fast_evaluation",
    "fast_training",
    "has_linear_output",
    "keep_memory",
    "linear_cross_entropy",
    "load_dequantized",
    "load_model",
    "load_tokenizer",
    "output_layer",
    "output_of",
    "output_weight",
    "release_memory",
    "require_weights",
    "size",
]
