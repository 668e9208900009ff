"""OpenVINO: for its GenAI, the fastest of these runtimes on processors of Intel's kind.

GenAI makes its model of a GGUF; so that is written first, and both are compared with what was trained.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

from workbench import files
from workbench.errors import UserError
from workbench.export.formats.format import Format, Sources
from workbench.export.formats.gguf.runtime import require_llama_cpp
from workbench.export.formats.gguf.write import MODEL_FILE, write_gguf
from workbench.export.formats.runtime import ScriptRuntime, served
from workbench.export.formats.suppressed import unable_to_say_them
from workbench.export.process import ALONE
from workbench.models import load_tokenizer
from workbench.models.checkpoint import first_line

SCRIPTS = Path(__file__).parent / "openvino_genai"
# How a GGUF holds the weights of which OpenVINO makes those.
HELD = {"fp16": "f16", "int8": "q8_0", "int4": "q4_k_m"}
# What GenAI reads beside its model and tokenizer: where answers end, and what the model is.
BESIDE = ("generation_config.json", "config.json", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json")


def _require_installed() -> None:
    require_llama_cpp()  # which quantizes the GGUF
    if importlib.util.find_spec("openvino_genai") is None:
        raise UserError("format openvino needs openvino_genai: pip install openvino-genai")


def _write(sources: Sources, folder: Path, quantization: str) -> None:
    _require_installed()
    with (
        files.temporary_folder(folder.parent, "openvino") as beside,
        unable_to_say_them(sources.merged, beside) as merged,
    ):
        model = beside / MODEL_FILE
        write_gguf(merged, model, HELD[quantization], sources.name, sources.end_of_turn)
        command = [sys.executable, "-E", "-P", str(SCRIPTS / "convert.py"), str(model)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **ALONE})
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise UserError(f"OpenVINO GenAI can't make this model: {last[:300]}; take --format onnx, gguf or hf")
        for path in sorted(beside.glob("openvino_model.*")):
            shutil.move(path, folder / path.name)
        _write_tokenizer(merged, folder)
        for name in BESIDE:
            if (merged / name).is_file():
                shutil.copy2(merged / name, folder / name)


def _write_tokenizer(merged: Path, folder: Path) -> None:
    """As OpenVINO makes it of that of transformers: of a GGUF it knows only some ways to split texts."""
    import openvino
    from openvino_tokenizers import convert_tokenizer

    try:
        converted = convert_tokenizer(load_tokenizer(merged), with_detokenizer=True)
    except Exception as error:  # whatever the converter makes of a tokenizer that it doesn't know
        raise UserError(
            f"OpenVINO has no such tokenizer: {first_line(error)}; take --format onnx, gguf or hf"
        ) from error
    for name, model in zip(("tokenizer", "detokenizer"), converted, strict=True):
        openvino.save_model(model, folder / f"openvino_{name}.xml")


def _open(sources: Sources, folder: Path, longest: int) -> AbstractContextManager[ScriptRuntime]:
    _require_installed()
    return served(SCRIPTS / "serve.py", str(folder.resolve()))


def _usage(folder: str, sources: Sources) -> str:
    return (
        "import openvino_genai\n\n"
        "# Without the precision, sums are rounded to bfloat16 where the processor can, and texts are others.\n"
        f'model = openvino_genai.LLMPipeline("{folder}", "CPU", INFERENCE_PRECISION_HINT="f32")\n'
        "history = openvino_genai.ChatHistory()\n"
        'history.append({"role": "user", "content": "..."})\n'
        "answer = model.generate(history, max_new_tokens=256)"
    )


FORMATS = (
    Format(
        name="openvino",
        summary="for OpenVINO GenAI",
        quantizations=tuple(HELD),
        rounded=frozenset({"int8", "int4"}),
        write=_write,
        open=_open,
        usage=_usage,
        packages=("openvino-genai", "openvino"),
    ),
)
