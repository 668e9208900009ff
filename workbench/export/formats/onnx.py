"""ONNX: for onnxruntime-genai, which brings what writes it, too."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path

from workbench.errors import UserError
from workbench.export.formats.format import Format, Sources
from workbench.export.formats.runtime import ScriptRuntime, served
from workbench.export.formats.suppressed import unable_to_say_them
from workbench.export.process import ALONE

NEEDED = ("onnxruntime_genai", "onnx", "onnx_ir")
BUILDER = "onnxruntime_genai.models.builder"


def _require_installed() -> None:
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise UserError(f"format onnx needs {', '.join(missing)}: pip install onnxruntime-genai onnx onnx-ir")


def _write(sources: Sources, folder: Path, quantization: str) -> None:
    _require_installed()
    with tempfile.TemporaryDirectory() as cache, unable_to_say_them(sources.merged, Path(cache)) as merged:
        command = [
            sys.executable, "-m", BUILDER, "-m", str(merged), "-o", str(folder), "-p", quantization,
            "-e", "cpu",
            "-c", cache,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **ALONE})
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(f"onnxruntime-genai can't write this model: {last[:300]}; take --format hf or gguf")


def _open(sources: Sources, folder: Path, longest: int) -> AbstractContextManager[ScriptRuntime]:
    _require_installed()
    return served(Path(__file__).parent / "genai" / "serve.py", str(folder.resolve()))


def _usage(folder: str, sources: Sources) -> str:
    return (
        "import onnxruntime_genai as genai\n\n"
        f'model = genai.Model("{folder}")\n'
        "tokenizer = genai.Tokenizer(model)\n"
        'prompt = tokenizer.apply_chat_template(\'[{"role": "user", "content": "..."}]\', add_generation_prompt=True)'
    )


FORMATS = (
    Format(
        name="onnx",
        summary="for onnxruntime-genai",
        quantizations=("fp32", "int4"),
        rounded=frozenset({"int4"}),
        write=_write,
        open=_open,
        usage=_usage,
        packages=("onnxruntime-genai", "onnxruntime"),
    ),
)
