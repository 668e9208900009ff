"""Models: load base and tokenizer, attach a method, compute along the fast paths."""

from workbench.models.attach import Size, attach, check_attachment, size
from workbench.models.checkpoint import (
    context_length,
    held_bytes,
    require_causal,
    require_sizes,
    require_weights,
    weight_shapes,
)
from workbench.models.fast import fast_evaluation, fast_training
from workbench.models.head import (
    class_logits,
    head_of,
    last_states,
    plain_model,
    read_by_head,
    without_adapter,
    without_head,
)
from workbench.models.load import (
    BITS,
    head_settings,
    load_classifier,
    load_dequantized,
    load_model,
    load_tokenizer,
)
from workbench.models.memory import keep_memory, release_memory, skip_what_is_there
from workbench.models.output import has_linear_output, linear_cross_entropy, output_layer, output_of, output_weight
from workbench.models.precision import (
    DEQUANTIZED,
    ORIGINAL,
    SHIPPED,
    Precision,
    bfloat16_is_fast,
    computing_dtype,
    default_bits,
    precision_of,
)
from workbench.models.split import is_split, split_frozen, split_weights

__all__ = [
    "BITS",
    "DEQUANTIZED",
    "ORIGINAL",
    "SHIPPED",
    "Precision",
    "Size",
    "attach",
    "bfloat16_is_fast",
    "check_attachment",
    "class_logits",
    "computing_dtype",
    "context_length",
    "default_bits",
    "fast_evaluation",
    "fast_training",
    "has_linear_output",
    "head_of",
    "head_settings",
    "held_bytes",
    "is_split",
    "keep_memory",
    "last_states",
    "linear_cross_entropy",
    "load_classifier",
    "load_dequantized",
    "load_model",
    "load_tokenizer",
    "output_layer",
    "output_of",
    "output_weight",
    "plain_model",
    "precision_of",
    "read_by_head",
    "release_memory",
    "require_causal",
    "require_sizes",
    "require_weights",
    "size",
    "skip_what_is_there",
    "split_frozen",
    "split_weights",
    "weight_shapes",
    "without_adapter",
    "without_head",
]
