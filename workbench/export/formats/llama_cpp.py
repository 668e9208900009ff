"""GGUF: for llama.cpp and what is built on it, such as Ollama and LM Studio."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench import files
from workbench.data.render import make_renderer
from workbench.data.template import DATE
from workbench.errors import UserError
from workbench.export.formats.format import Format, Sources
from workbench.export.formats.gguf.adapter import ADAPTER_FILE, write_adapter
from workbench.export.formats.gguf.modelfile import MODELFILE, modelfile, turns_of
from workbench.export.formats.gguf.runtime import LlamaCpp, opened, require_llama_cpp
from workbench.export.formats.gguf.write import MODEL_FILE, write_gguf
from workbench.models import load_tokenizer

# Tokens beside those of the longest prompt and its answer for which there is room while a file is read back.
ROOM = 64


def _write(sources: Sources, folder: Path, quantization: str) -> None:
    require_llama_cpp()
    write_gguf(sources.merged, folder / MODEL_FILE, quantization, sources.name, sources.end_of_turn)
    tokenizer = load_tokenizer(sources.merged)
    first = tokenizer("a")["input_ids"][0]
    bos = tokenizer.bos_token if first == tokenizer.bos_token_id else None
    dated = DATE in tokenizer.chat_template  # Ollama's language would keep the day of the export
    turns = None if dated else turns_of(make_renderer(tokenizer).template.text)
    end = tokenizer.convert_ids_to_tokens(sources.end_of_turn)
    files.write_text(folder / MODELFILE, modelfile(MODEL_FILE, turns, bos, end))


@contextmanager
def _open(sources: Sources, folder: Path, longest: int) -> Iterator[LlamaCpp]:
    with opened(folder / MODEL_FILE, longest + ROOM) as runtime:
        yield runtime


def _usage(folder: str, sources: Sources) -> str:
    return f"llama-server -m {folder}/{MODEL_FILE}\nollama create my-model -f {folder}/{MODELFILE}"


def _write_adapter(sources: Sources, folder: Path, quantization: str) -> None:
    require_llama_cpp()
    if sources.adapter is None:
        raise UserError("there is no adapter: all weights were trained; take --format gguf")
    write_adapter(sources.adapter, sources.base, folder / ADAPTER_FILE, quantization)


@contextmanager
def _open_adapter(sources: Sources, folder: Path, longest: int) -> Iterator[LlamaCpp]:
    """The adapter on the base, which is written for it and not kept: users have their own."""
    assert sources.adapter is not None
    with files.temporary_folder(folder.parent, "base") as beside:
        base = beside / MODEL_FILE
        write_gguf(sources.base, base, "f32", "base", sources.end_of_turn, tokenizer=sources.adapter)
        with opened(base, longest + ROOM, adapter=folder / ADAPTER_FILE) as runtime:
            yield runtime


def _use_adapter(folder: str, sources: Sources) -> str:
    return f"llama-server -m BASE.gguf --lora {folder}/{ADAPTER_FILE}"


FORMATS = (
    Format(
        name="gguf",
        summary="one file for llama.cpp, Ollama and what else is built on them",
        quantizations=("f16", "f32", "q8_0", "q4_k_m"),
        rounded=frozenset({"q8_0", "q4_k_m"}),
        write=_write,
        open=_open,
        usage=_usage,
        language="sh",
        packages=("xllamacpp",),
    ),
    Format(
        name="gguf-lora",
        summary="a LoRA adapter for llama.cpp, beside a GGUF of its base",
        quantizations=("f32", "f16"),
        rounded=frozenset(),
        write=_write_adapter,
        open=_open_adapter,
        usage=_use_adapter,
        language="sh",
        adapter=True,
        packages=("xllamacpp",),
    ),
)
