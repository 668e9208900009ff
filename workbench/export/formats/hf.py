"""Checkpoints in half precision for transformers, and adapters for PEFT."""

import json
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from workbench import files
from workbench.device import device
from workbench.errors import UserError
from workbench.export.formats.format import Format, Sources
from workbench.export.formats.runtime import ScriptRuntime, served
from workbench.export.loading import adapter_loading
from workbench.export.process import ALONE
from workbench.export.verify import MANIFEST_FILE

ASK = (
    'chat = [{"role": "user", "content": "..."}]',
    "inputs = tokenizer.apply_chat_template(",
    '    chat, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
    ")",
)
# Not taken over from the folder that is rounded, or from the adapter: they are written anew.
OF_ITS_OWN = frozenset({MANIFEST_FILE, "README.md"})


def _write(sources: Sources, folder: Path, quantization: str) -> None:
    """Round a merged checkpoint in float32, one file of its weights after the other."""
    dtype = getattr(torch, quantization)
    for path in sorted(sources.merged.iterdir()):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as read:
                weights = {name: read.get_tensor(name).to(dtype) for name in read.keys()}  # noqa: SIM118
                kept = read.metadata()
            if large := [name for name, weight in weights.items() if not weight.isfinite().all()]:
                raise UserError(f"{large[0]} holds numbers too large for {quantization}: take --precision bfloat16")
            save_file(weights, folder / path.name, metadata=kept)
        elif path.name == "config.json":
            config = json.loads(path.read_text(encoding="utf-8"))
            # Older versions of transformers know it by the second name.
            config |= {name: quantization for name in ("dtype", "torch_dtype") if name in config}
            files.write_json(folder / path.name, config)
        elif path.name not in OF_ITS_OWN:
            shutil.copy2(path, folder / path.name)


def _write_adapter(sources: Sources, folder: Path, quantization: str) -> None:
    if sources.adapter is None:
        raise UserError("there is no adapter: all weights were trained; take --format hf")
    for path in sorted(sources.adapter.iterdir()):
        if path.name not in OF_ITS_OWN:
            shutil.copy2(path, folder / path.name)
    if sources.generation is not None:
        sources.generation.save_pretrained(folder)


def _served(settings: Mapping[str, Any]) -> AbstractContextManager[ScriptRuntime]:
    return served(
        Path(__file__).parent / "stock" / "serve.py",
        json.dumps({**settings, "device": str(device())}),
        environment=ALONE,
    )


def _open(sources: Sources, folder: Path, longest: int) -> AbstractContextManager[ScriptRuntime]:
    return _served({"folder": str(folder.resolve())})


def _open_adapter(sources: Sources, folder: Path, longest: int) -> AbstractContextManager[ScriptRuntime]:
    return _served({
        "folder": str(folder.resolve()),
        "base": str(sources.base.resolve()),
        "arguments": sources.base_arguments,
        "import": sources.loads_with,
    })  # fmt: skip


def _usage(folder: str, sources: Sources) -> str:
    return (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{folder}", dtype="auto")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{folder}")\n'
        + "\n".join([*ASK, "answer = model.generate(**inputs, max_new_tokens=256)"])
    )


def _use_adapter(folder: str, sources: Sources) -> str:
    dtype, bits = sources.base_arguments["dtype"], sources.base_arguments.get("bits", 32)
    lines = adapter_loading(folder, dtype, bits, loads_with=sources.loads_with).splitlines()
    lines[1] += ", GenerationConfig"
    return "\n".join([
        *lines,
        f'settings = GenerationConfig.from_pretrained("{folder}")  # as it was scored, whatever the base\'s say',
        *ASK,
        "answer = model.generate(**inputs, generation_config=settings, max_new_tokens=256)",
    ])  # fmt: skip


FORMATS = (
    Format(
        name="hf",
        summary="a checkpoint for transformers in half precision",
        quantizations=("bfloat16", "float16"),
        rounded=frozenset({"bfloat16", "float16"}),
        write=_write,
        open=_open,
        usage=_usage,
        library="transformers",
        packages=("transformers", "torch"),
    ),
    Format(
        name="peft",
        summary="the adapter, for PEFT beside its base",
        quantizations=("float32",),
        rounded=frozenset(),
        write=_write_adapter,
        open=_open_adapter,
        usage=_use_adapter,
        library="peft",
        adapter=True,
        packages=("peft", "transformers", "torch"),
    ),
)
