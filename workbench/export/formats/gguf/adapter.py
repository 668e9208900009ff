"""A LoRA adapter as llama.cpp holds it: the two factors of each update, under its own names of the weights."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGUFWriter
from safetensors.torch import load_file

from workbench.errors import UserError
from workbench.export.adapter import why_not_served
from workbench.export.formats.gguf.settings import architecture_of, tensor_names
from workbench.models.checkpoint import read_config

ADAPTER_FILE = "adapter.gguf"
# As PEFT saves them: in front of a name of the base's, and behind it.
PREFIX, DOWN, UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


def write_adapter(adapter: Path, base: Path, file: Path, quantization: str) -> None:
    """Write the adapter in the folder `adapter` to `file`.

    Args:
        base: folder of its base.
        quantization: "f32" or "f16".

    Raises:
        UserError: llama.cpp can't add it to a base.
    """
    if reason := why_not_served(adapter):
        raise UserError(f"llama.cpp can't add this adapter to its base: {reason}; take --format gguf")
    settings, config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8")), read_config(base)
    known, named = architecture_of(config), tensor_names(config)
    rank, alpha = settings["r"], settings["lora_alpha"]
    writer = GGUFWriter(file, gguf.MODEL_ARCH_NAMES[known.arch])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    # llama.cpp divides by the rank; rank-stabilised LoRA by its root.
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha * rank**0.5 if settings.get("use_rslora") else alpha)
    dtype = np.float16 if quantization == "f16" else np.float32
    for name, down, up in _updates(adapter):
        # Columns of `up` are weights from one number each, turned as the weight itself; `gpt2` stores neither turned.
        turned = up if config.model_type == "gpt2" else known.weight(name, up, config)
        target = named(name)
        writer.add_tensor(f"{target}.lora_a", down.contiguous().numpy().astype(dtype))
        writer.add_tensor(f"{target}.lora_b", turned.contiguous().numpy().astype(dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _updates(adapter: Path) -> list[tuple[str, Any, Any]]:
    """Of each update the name of the weight, `down` (rank, in) and `up` (out, rank)."""
    tensors = load_file(adapter / "adapter_model.safetensors")
    return [
        (
            f"{name.removeprefix(PREFIX).removesuffix(DOWN)}.weight",
            value.float(),
            tensors[name.replace(DOWN, UP)].float(),
        )
        for name, value in tensors.items()
        if name.endswith(DOWN)
    ]
