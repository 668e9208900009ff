"""ONNX: for onnxruntime-genai, which brings what writes it, too."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.export.formats.format import Continued, Format, Likeliest, Sources
from workbench.export.formats.runtime import ask_in_lots
from workbench.export.process import ALONE
from workbench.script import Script

NEEDED = ("onnxruntime_genai", "onnx", "onnx_ir")
BUILDER = "onnxruntime_genai.models.builder"


def _require_installed() -> None:
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise UserError(f"format onnx needs {', '.join(missing)}: pip install onnxruntime-genai onnx onnx-ir")


def _write(sources: Sources, folder: Path, quantization: str) -> None:
    _require_installed()
    with tempfile.TemporaryDirectory() as cache:
        command = [
            sys.executable, "-m", BUILDER, "-m", str(sources.merged), "-o", str(folder), "-p", quantization,
            "-e", "cpu",
            "-c", cache,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **ALONE})
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(f"onnxruntime-genai can't write this model: {last[:300]}; take --format hf or gguf")


class OnnxRuntime:
    """onnxruntime-genai in a process of its own; implements `Runtime`."""

    def __init__(self, script: Script) -> None:
        self._script = script

    def prompt_ids(self, conversations: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        """See `Runtime`."""
        return ask_in_lots(self._script, conversations, lambda some: {"conversations": some})

    def text_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Runtime`."""
        return ask_in_lots(self._script, texts, lambda some: {"texts": some})

    def continued(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, title: str = "") -> list[Continued]:
        """See `Runtime`."""
        given = [list(ids) for ids in prompts]
        settings = {"max_new_tokens": max_new_tokens}
        answers = ask_in_lots(self._script, given, lambda some: {"prompts": some, **settings}, title)
        return [Continued(**answer) for answer in answers]

    def likeliest(self, prefixes: Sequence[Sequence[int]], count: int, title: str = "") -> list[Likeliest]:
        """See `Runtime`."""
        given = [list(ids) for ids in prefixes]
        found = ask_in_lots(self._script, given, lambda some: {"prefixes": some, "count": count}, title)
        return [[(token, log) for token, log in one] for one in found]


@contextmanager
def _open(sources: Sources, folder: Path, longest: int) -> Iterator[OnnxRuntime]:
    _require_installed()
    script = Script(Path(__file__).parent / "genai" / "serve.py", str(folder.resolve()))
    try:
        yield OnnxRuntime(script)
    finally:
        script.close()


def _usage(folder: str) -> str:
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
