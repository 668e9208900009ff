"""How llama.cpp holds models of transformers: what it calls their settings, and how it stores their weights.

Names of settings and tensors are those of the `gguf` package; what a weight has to be turned into is what llama.cpp's
graphs of an architecture compute with (https://github.com/ggml-org/llama.cpp, `src/models`).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gguf
import torch
from gguf import GGUFWriter

from workbench.errors import UserError

# Layers that see everything come every so many; it is no setting in llama.cpp's Gemma 3.
GEMMA3_FULL_EVERY = 6
GEMMA3_LOCAL_THETA = 10000.0
LINEAR, YARN, LLAMA3, DEFAULT = "linear", "yarn", "llama3", "default"


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """An architecture of llama.cpp.

    Attributes:
        arch: its number there.
        settings: writes the settings of a configuration that are its own.
        weight: name of a weight in transformers, the weight, and the configuration -> as llama.cpp holds it.
        more: of a configuration, weights that llama.cpp wants beside those of transformers, by its own names.
        problem: of a configuration, why llama.cpp could not run it; None if it can.
    """

    arch: Any
    settings: Callable[[GGUFWriter, Any], None]
    weight: Callable[[str, torch.Tensor, Any], torch.Tensor]
    more: Callable[[Any], Mapping[str, torch.Tensor]] = lambda config: {}
    problem: Callable[[Any], str | None] = lambda config: None


def architecture_of(config: Any) -> Architecture:
    """What llama.cpp calls the architecture of a configuration.

    Raises:
        UserError: it has none, or could not run this configuration of it.
    """
    known = ARCHITECTURES.get(config.model_type)
    if known is None:
        raise UserError(
            f"no GGUF is written of {config.model_type} models: {', '.join(ARCHITECTURES)} can be; take --format hf"
        )
    if problem := known.problem(config):
        raise UserError(f"llama.cpp can't run this {config.model_type} model: {problem}; take --format hf")
    return known


def write_settings(writer: GGUFWriter, config: Any) -> None:
    """Write all settings of a configuration."""
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    architecture_of(config).settings(writer, config)


def tensor_names(config: Any) -> Callable[[str], str]:
    """Name of a weight in transformers -> its name in llama.cpp.

    Raises, when called:
        UserError: llama.cpp has no such weight.
    """
    names = gguf.get_tensor_name_map(architecture_of(config).arch, config.num_hidden_layers)

    def named(name: str) -> str:
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise UserError(f"llama.cpp has no weight for {name} of a {config.model_type} model; take --format hf")
        return str(found)

    return named


def _rotary(writer: GGUFWriter, config: Any) -> None:
    """Settings of models with rotary embeddings, gated blocks and RMS norms."""
    head = _head_width(config)
    rope = config.rope_parameters
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(rope["rope_theta"])
    _stretch(writer, rope)


def _stretch(writer: GGUFWriter, rope: Mapping[str, Any]) -> None:
    """Settings of rotary embeddings for texts longer than those of the pretraining."""
    kind = rope.get("rope_type", DEFAULT)
    if kind == LINEAR:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif kind == YARN:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def _rope_problem(config: Any) -> str | None:
    kinds = (DEFAULT, LINEAR, YARN, *([LLAMA3] if config.model_type == "llama" else []))
    kind = config.rope_parameters.get("rope_type", DEFAULT)
    if kind not in kinds:
        return f"its rotary embeddings are scaled by {kind!r}"
    if getattr(config, "use_sliding_window", None) or (config.model_type == "mistral" and config.sliding_window):
        return "it has a sliding window, which llama.cpp leaves out of this architecture"
    return None


def _head_width(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _llama_weight(name: str, weight: torch.Tensor, config: Any) -> torch.Tensor:
    """Queries and keys with the two halves of each head turn by turn, as llama.cpp turns pairs of neighbours."""
    for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
        if f".{part}." in name:
            rest = weight.shape[1:]
            return weight.reshape(heads, 2, -1, *rest).transpose(1, 2).reshape(weight.shape)
    return weight


def _llama_frequencies(config: Any) -> dict[str, torch.Tensor]:
    """By what Llama 3 divides its frequencies: high ones by 1, low ones by the factor, those between smoothly."""
    rope = config.rope_parameters
    if rope.get("rope_type") != LLAMA3:
        return {}
    width = _head_width(config)
    lengths = 2 * math.pi * rope["rope_theta"] ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    original, factor = rope["original_max_position_embeddings"], rope["factor"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = ((original / lengths - low) / (high - low)).clamp(0, 1)
    return {"rope_freqs.weight": (1 / ((1 - smooth) / factor + smooth)).float()}


def _as_it_is(name: str, weight: torch.Tensor, config: Any) -> torch.Tensor:
    return weight


def _gemma3_settings(writer: GGUFWriter, config: Any) -> None:
    head, rope = config.head_dim, config.rope_parameters
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_sliding_window(config.sliding_window)
    full = rope["full_attention"]
    writer.add_rope_freq_base(full["rope_theta"])
    _stretch(writer, full)


def _gemma3_weight(name: str, weight: torch.Tensor, config: Any) -> torch.Tensor:
    """Norms multiply by one more than their weight."""
    return weight + 1 if name.endswith("norm.weight") else weight


def _gemma3_problem(config: Any) -> str | None:
    kinds = ["full_attention" if (i + 1) % GEMMA3_FULL_EVERY == 0 else "sliding_attention"
             for i in range(config.num_hidden_layers)]  # fmt: skip
    rope = config.rope_parameters
    if list(config.layer_types) != kinds:
        return f"not every {GEMMA3_FULL_EVERY}th of its layers sees everything, and the others the nearest tokens"
    if config.query_pre_attn_scalar != config.head_dim:
        return f"its attention is scaled by {config.query_pre_attn_scalar}, and not by the width of a head"
    if rope["sliding_attention"]["rope_theta"] != GEMMA3_LOCAL_THETA:
        return f"the frequencies of its sliding layers are not those of {GEMMA3_LOCAL_THETA:g}"
    if config.final_logit_softcapping or config.attn_logit_softcapping:
        return "its scores are capped"
    if rope["full_attention"].get("rope_type", DEFAULT) not in (DEFAULT, LINEAR):
        return "its rotary embeddings are scaled in a way that llama.cpp doesn't know"
    return None


def _gpt2_settings(writer: GGUFWriter, config: Any) -> None:
    # llama.cpp takes four times the width where it isn't said, and parallel adapters make these blocks wider.
    writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)


def _gpt2_weight(name: str, weight: torch.Tensor, config: Any) -> torch.Tensor:
    """Its layers are stored as (in, out)."""
    turned = any(name.endswith(f"{part}.weight") for part in ("c_attn", "c_proj", "c_fc"))
    return weight.t() if turned else weight


def _gpt2_problem(config: Any) -> str | None:
    if config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights:
        return "its attention is scaled in a way of its own"
    return None


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(
        arch=gguf.MODEL_ARCH.LLAMA,
        settings=_rotary,
        weight=_llama_weight,
        more=_llama_frequencies,
        problem=_rope_problem,
    ),
    "mistral": Architecture(arch=gguf.MODEL_ARCH.LLAMA, settings=_rotary, weight=_llama_weight, problem=_rope_problem),
    "qwen2": Architecture(arch=gguf.MODEL_ARCH.QWEN2, settings=_rotary, weight=_as_it_is, problem=_rope_problem),
    "qwen3": Architecture(arch=gguf.MODEL_ARCH.QWEN3, settings=_rotary, weight=_as_it_is, problem=_rope_problem),
    "gemma3_text": Architecture(
        arch=gguf.MODEL_ARCH.GEMMA3, settings=_gemma3_settings, weight=_gemma3_weight, problem=_gemma3_problem
    ),
    "gpt2": Architecture(
        arch=gguf.MODEL_ARCH.GPT2, settings=_gpt2_settings, weight=_gpt2_weight, problem=_gpt2_problem
    ),
}
