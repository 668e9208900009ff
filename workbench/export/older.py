"""What older versions of transformers need of a saved checkpoint, beside what the installed one writes.

Transformers 5 writes the frequencies of rotary embeddings and the special tokens under names that version 4 does not
read: it takes its defaults instead and says something else, or refuses the tokenizer. Both forms stand in the files
here, and the proof is of these files. Much that serves models stands on transformers 4.
"""

import json
from pathlib import Path
from typing import Any

from workbench import files

CONFIG, TOKENIZER_CONFIG = "config.json", "tokenizer_config.json"
# As transformers 5 calls its own class for tokenizer.json, and what version 4 calls it, which both know.
TOKENIZER_CLASS, OLDER_TOKENIZER_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"
# The parts of rotary embeddings that have fields of their own in version 4.
THETA, PART, KIND = "rope_theta", "partial_rotary_factor", "rope_type"
# Layers that see everything, and layers that see the nearest tokens.
FULL, SLIDING = "full_attention", "sliding_attention"


def write_older_forms(folder: Path) -> None:
    """Add to the files of a saved checkpoint what transformers 4 reads in their place."""
    config = _read(folder / CONFIG)
    files.write_json(folder / CONFIG, {**config, **older_config(config)})
    if (folder / TOKENIZER_CONFIG).is_file():
        files.write_json(folder / TOKENIZER_CONFIG, older_tokenizer(_read(folder / TOKENIZER_CONFIG)))


def older_config(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of version 4 for what a configuration says."""
    found: dict[str, Any] = {}
    if "dtype" in config:
        found["torch_dtype"] = config["dtype"]
    if config.get("model_type") == "gpt2":
        found["n_ctx"] = config["n_positions"]
    rope = config.get("rope_parameters") or {}
    if FULL in rope:  # by the kind of layer, as Gemma 3 has it
        sliding = rope.get(SLIDING) or {}
        if THETA in sliding:
            found["rope_local_base_freq"] = sliding[THETA]
        rope = rope[FULL] or {}
    if THETA in rope:
        found[THETA] = rope[THETA]
        scaled = rope.get(KIND, "default") != "default"
        found["rope_scaling"] = {name: value for name, value in rope.items() if name != THETA} if scaled else None
    if config.get("model_type") == "gpt_neox" and THETA in rope:
        found |= {"rotary_emb_base": rope[THETA], "rotary_pct": rope.get(PART, 1.0)}
    elif PART in rope:
        found[PART] = rope[PART]
    if isinstance(text := config.get("text_config"), dict):
        found["text_config"] = {**text, **older_config(text)}
    return found


def older_tokenizer(config: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer's configuration in the form that version 4 reads, and 5 as well."""
    found = dict(config)
    if found.get("tokenizer_class") == TOKENIZER_CLASS:
        found["tokenizer_class"] = OLDER_TOKENIZER_CLASS
    if isinstance(found.get("extra_special_tokens"), list):  # in version 4 a dictionary of tokens with names
        found["additional_special_tokens"] = found.pop("extra_special_tokens")
    found.setdefault("model_input_names", ["input_ids", "attention_mask"])
    return found


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
