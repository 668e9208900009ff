"""Other formats than that of transformers: written, read back by what runs them, and held against what was trained."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tiny import make_model, make_tokenizer, write_recipe
from workbench.data.render import make_renderer
from workbench.errors import UserError
from workbench.export.__main__ import main as export
from workbench.export.formats.gguf.modelfile import modelfile, turns_of
from workbench.export.formats.gguf.runtime import opened
from workbench.export.formats.gguf.write import write_gguf
from workbench.models import load_tokenizer
from workbench.run.__main__ import main as run

# Architectures of which a GGUF can be written, with settings that llama.cpp knows.
GGUF_KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {},
    "gpt2": {"n_inner": 72},
    "gemma3": {"query_pre_attn_scalar": 8},
}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
TEXTS = ["What does a transfer cost?", "  Two spaces, 123 euros;\n\nand 你好 €4.", "<|im_start|>"]


def saved(kind: str, folder: Path, **settings: Any) -> tuple[Any, Any]:
    model, tokenizer = make_model(kind, **settings), make_tokenizer()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


@pytest.mark.parametrize("kind", GGUF_KINDS)
def test_llama_cpp_computes_the_same_from_a_gguf(kind: str, tmp_path: Path) -> None:
    model, tokenizer = saved(kind, tmp_path / "hf", **GGUF_KINDS[kind])
    write_gguf(tmp_path / "hf", tmp_path / "model.gguf", "f32", "tiny", 2)
    ids: list[int] = tokenizer(TEXTS[0])["input_ids"]
    with torch.inference_mode():
        right = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(dim=-1)
    with opened(tmp_path / "model.gguf", 128) as runtime:
        found = runtime.likeliest([ids[: n + 1] for n in range(len(ids))], model.config.vocab_size)
        messages = [{"role": "user", "content": TEXTS[1]}]
        (prompt,) = runtime.prompt_ids([{"messages": messages, "tools": None}])
        texts = runtime.text_ids(TEXTS)
    for logs, one in zip(right, found, strict=True):
        given = dict(one)
        assert len(given) == model.config.vocab_size
        assert np.allclose([given[n] for n in range(len(logs))], logs.numpy(), atol=5e-3)
    asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert prompt == asked
    assert texts == [tokenizer(text)["input_ids"] for text in TEXTS]


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("gpt-neo", {}, "no GGUF is written of gpt_neo models"),
        ("gemma3", {}, "its attention is scaled by 256"),
        ("llama", {"rope_parameters": DYNAMIC}, "scaled by 'dynamic'"),
    ],
)
def test_what_llama_cpp_can_not_run_is_said(kind: str, settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    saved(kind, tmp_path / "hf", **settings)
    with pytest.raises(UserError, match=said):
        write_gguf(tmp_path / "hf", tmp_path / "model.gguf", "f16", "tiny", 2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formats")
    recipe = write_recipe(folder)
    assert run([str(recipe), "--methods", "lora", "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.mark.parametrize("quantization", ["f16", "q8_0"])
def test_a_method_is_exported_as_gguf(finished: Path, quantization: str, tmp_path: Path, capsys: Any) -> None:
    to = tmp_path / "bank"
    asked = [str(finished), "--method", "lora", "--to", str(to), "--format", "gguf", "--quantize", quantization]
    assert export(asked) == 0, capsys.readouterr()
    said = capsys.readouterr().out
    assert "beside what was trained" in said
    assert {path.name for path in to.iterdir()} == {"model.gguf", "Modelfile", "README.md", "MANIFEST.json"}
    manifest = json.loads((to / "MANIFEST.json").read_text(encoding="utf-8"))
    assert (manifest["format"], manifest["quantization"], manifest["method"]) == ("gguf", quantization, "lora")
    assert 2 * manifest["proof"]["divergence"] < manifest["proof"]["base_divergence"]
    assert manifest["proof"]["comparison"]["items"] == 8


def test_mistakes_are_told_in_a_line(finished: Path, tmp_path: Path, capsys: Any) -> None:
    def said(*more: str) -> str:
        assert export([str(finished), "--method", "lora", "--to", str(tmp_path / "x"), *more]) == 2
        return str(capsys.readouterr().err)

    assert "unknown format 'ggml'" in said("--format", "ggml")
    assert "q8_0" in said("--format", "gguf", "--quantize", "q8")
    assert "--precision" in said("--format", "gguf", "--precision", "bfloat16")
    assert "--precision" in said("--quantize", "q8_0")
    assert not (tmp_path / "x").exists()


def test_a_modelfile_says_what_the_chat_template_does(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    write = make_renderer(load_tokenizer(tmp_path)).template.text
    turns = turns_of(write)
    assert turns is not None
    assert turns.after_user == "<|im_end|>\n<|im_start|>assistant\n"
    text = modelfile("model.gguf", turns, None, "<|im_end|>")
    assert 'PARAMETER stop "<|im_end|>"' in text
    assert '{{ .Content }}{{ "<|im_end|>\\n<|im_start|>assistant\\n" }}' in text

    def counts(messages: Sequence[Any], add_generation_prompt: bool) -> str:
        return f"{len(messages)} turns: " + write(messages, add_generation_prompt)

    assert turns_of(counts) is None
