"""Save an adapter."""

import json
from pathlib import Path
from typing import Any

from peft import PeftConfig
from peft.utils import CONFIG_NAME
from torch import nn

from workbench import files

# What `--max-lora-rank` may be; vLLM takes 16 without it.
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def save_adapter(model: nn.Module, tokenizer: Any, folder: Path, checkpoint: str, card: str) -> int:
    """Save the adapter of a PEFT model so that PEFT loads it, with the tokenizer and template of its prompts.

    Args:
        checkpoint: name of the base, written into the adapter's configuration in place of a path of this machine.
        card: text of the README.

    Returns:
        Bytes of its weights.
    """
    with files.whole_folder(folder) as aside:
        for config in model.peft_config.values():  # type: ignore[operator]
            config.base_model_name_or_path = checkpoint
        # No adapter here changes the vocabulary; asked to find out, PEFT would look for the base on a hub.
        model.save_pretrained(aside, safe_serialization=True, save_embedding_layers=False)  # type: ignore[operator]
        for config in model.peft_config.values():  # type: ignore[operator]
            _sort_sets(aside / CONFIG_NAME, config)
        tokenizer.save_pretrained(aside)
        files.write_text(aside / "README.md", card)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _sort_sets(file: Path, config: PeftConfig) -> None:
    """Write what is a set in `config` in an order of its own: PEFT writes it in that of this process's hashes."""
    values = json.loads(file.read_text(encoding="utf-8"))
    sets = {name: sorted(value) for name, value in values.items() if isinstance(getattr(config, name, None), set)}
    files.write_text(file, json.dumps(values | sets, indent=2, sort_keys=True))


def why_not_served(adapter: Path) -> str | None:
    """Why servers that add a LoRA to their base, such as llama.cpp and vLLM, can't take an adapter; None if they can.

    Args:
        adapter: folder of PEFT.
    """
    config = json.loads((adapter / CONFIG_NAME).read_text(encoding="utf-8"))
    if config.get("peft_type") != "LORA":
        return f"it is no LoRA, but {config.get('peft_type')}"
    for setting, why in (
        ("use_dora", "DoRA has lengths beside its updates"),
        ("modules_to_save", "it brings modules of its own"),
        ("rank_pattern", "its ranks differ from layer to layer"),
        ("alpha_pattern", "its scales differ from layer to layer"),
        ("lora_bias", "it has biases of its own"),
    ):
        if config.get(setting):
            return why
    return None


def rank_for_vllm(adapter: Path) -> int:
    """The least of the ranks that vLLM's `--max-lora-rank` takes which serves an adapter of LoRA.

    Args:
        adapter: folder of PEFT.
    """
    rank = int(json.loads((adapter / CONFIG_NAME).read_text(encoding="utf-8"))["r"])
    return next((known for known in VLLM_RANKS if known >= rank), rank)
