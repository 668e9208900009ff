"""GGUF: for llama.cpp and what is built on it, such as Ollama and LM Studio."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench import files
from workbench.data.render import make_renderer
from workbench.export.formats.format import Format
from workbench.export.formats.gguf.modelfile import MODELFILE, modelfile, turns_of
from workbench.export.formats.gguf.runtime import LlamaCpp, opened, require_llama_cpp
from workbench.export.formats.gguf.write import MODEL_FILE, write_gguf
from workbench.models import load_tokenizer

# Tokens of a prompt and its answer for which there is room while a file is read back.
CONTEXT = 4096


def _write(checkpoint: Path, folder: Path, quantization: str, end_of_turn: int) -> None:
    require_llama_cpp()
    write_gguf(checkpoint, folder / MODEL_FILE, quantization, checkpoint.parent.name, end_of_turn)
    tokenizer = load_tokenizer(checkpoint)
    first = tokenizer("a")["input_ids"][0]
    bos = tokenizer.bos_token if first == tokenizer.bos_token_id else None
    turns = turns_of(make_renderer(tokenizer).template.text)
    files.write_text(
        folder / MODELFILE, modelfile(MODEL_FILE, turns, bos, tokenizer.convert_ids_to_tokens(end_of_turn))
    )


@contextmanager
def _open(folder: Path) -> Iterator[LlamaCpp]:
    with opened(folder / MODEL_FILE, CONTEXT) as runtime:
        yield runtime


def _usage(folder: str) -> str:
    return f"llama-server -m {folder}/{MODEL_FILE}\nollama create my-model -f {folder}/{MODELFILE}"


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
    ),
)
