"""Models: load base and tokenizer, attach a method, compute along the fast paths."""

from workbench.models.fast import fast_training
from workbench.models.load import (
    BITS,
    Size,
    attach,
    bfloat16_is_fast,
    context_length,
    default_bits,
    device,
    load_model,
    load_tokenizer,
    release_memory,
    size,
)

__all__ = [
    "BITS",
    "Size",
    "attach",
    "bfloat16_is_fast",
    "context_length",
    "default_bits",
    "device",
    "fast_training",
    "load_model",
    "load_tokenizer",
    "release_memory",
    "size",
]
