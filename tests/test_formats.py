"""Other formats than that of transformers: written, read back by what runs them, and held against what was trained."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GenerationConfig

from tiny import CHATML, flip_a_bit, make_model, make_tokenizer, write_recipe
from workbench.compare import compare_methods
from workbench.data import Example
from workbench.data.render import make_renderer
from workbench.errors import UserError
from workbench.evaluation import Prediction, find_metric
from workbench.export import rank_for_vllm
from workbench.export.__main__ import main as export
from workbench.export.__main__ import parser as export_parser
from workbench.export.formats import Sources, find_format, known_formats, verdict
from workbench.export.formats.gguf import settings
from workbench.export.formats.gguf.adapter import write_adapter
from workbench.export.formats.gguf.modelfile import modelfile, turns_of
from workbench.export.formats.gguf.runtime import opened
from workbench.export.formats.gguf.write import write_gguf
from workbench.export.formats.model import RuntimeModel
from workbench.generation.engine import LocalModel
from workbench.models import load_tokenizer
from workbench.results import Comparison
from workbench.run import formats
from workbench.run.__main__ import main as run

# Architectures of which a GGUF can be written, with settings that llama.cpp knows.
GGUF_KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {},
    "gpt2": {"n_inner": 72},
    "gemma3": {"query_pre_attn_scalar": 8},
}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
TEMPLATE = "tokenizer.chat_template"
TEXTS = ["What does a transfer cost?", "  Two spaces, 123 euros;\n\nand 你好 €4.", "<|im_start|>"]


def saved(kind: str, folder: Path, **more: Any) -> tuple[Any, Any]:
    model, tokenizer = make_model(kind, **more), make_tokenizer()
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


@pytest.mark.parametrize(("kind", "more"), [("llama", {}), ("qwen3", {"head_dim": 16})])
def test_onnxruntime_computes_the_same_from_an_onnx(kind: str, more: dict[str, Any], tmp_path: Path) -> None:
    model, tokenizer = saved(kind, tmp_path / "hf", width=64, **more)
    onnx = find_format("onnx")
    hf = tmp_path / "hf"
    sources = Sources(merged=hf, base=hf, adapter=None, name="tiny", end_of_turn=2)
    onnx.write(sources, tmp_path / "onnx", "fp32")
    padding: int = tokenizer.pad_token_id  # which in many models ends turns
    ids: list[int] = [*tokenizer(TEXTS[0])["input_ids"], padding, 9, padding]
    with torch.inference_mode():
        right = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(dim=-1)
    messages = [{"role": "user", "content": TEXTS[1]}]
    with onnx.open(sources, tmp_path / "onnx", 128) as runtime:
        found = runtime.likeliest([ids[: n + 1] for n in range(len(ids))], model.config.vocab_size)
        found += runtime.likeliest([ids], model.config.vocab_size)
        (prompt,) = runtime.prompt_ids([{"messages": messages, "tools": None}])
        texts = runtime.text_ids(TEXTS)
    for logs, one in zip([*right, right[-1]], found, strict=True):
        assert np.allclose([dict(one)[n] for n in range(len(logs))], logs.numpy(), atol=1e-4)
    assert prompt == tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert texts == [tokenizer(text)["input_ids"] for text in TEXTS]


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("kind", GGUF_KINDS)
def test_llama_cpp_adds_a_lora_to_its_base(kind: str, rslora: bool, tmp_path: Path) -> None:
    model, tokenizer = saved(kind, tmp_path / "hf", **GGUF_KINDS[kind])
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=16, use_rslora=rslora, target_modules="all-linear", init_lora_weights=False)
    tuned: Any = get_peft_model(model, config).eval()
    tuned.save_pretrained(tmp_path / "adapter")
    write_gguf(tmp_path / "hf", tmp_path / "base.gguf", "f32", "tiny", 2)
    write_adapter(tmp_path / "adapter", tmp_path / "hf", tmp_path / "adapter.gguf", "f32")
    ids: list[int] = tokenizer(TEXTS[0])["input_ids"]
    with torch.inference_mode():
        right = tuned(input_ids=torch.tensor([ids])).logits[0].log_softmax(dim=-1)
        with tuned.disable_adapter():
            base = tuned(input_ids=torch.tensor([ids])).logits[0].log_softmax(dim=-1)
    assert (base - right).abs().max() > 0.2
    with opened(tmp_path / "base.gguf", 128, adapter=tmp_path / "adapter.gguf") as runtime:
        found = runtime.likeliest([ids[: n + 1] for n in range(len(ids))], model.config.vocab_size)
    for logs, one in zip(right, found, strict=True):
        assert np.allclose([dict(one)[n] for n in range(len(logs))], logs.numpy(), atol=2e-2)


@pytest.mark.parametrize(("more", "said"), [({"use_dora": True}, "DoRA has lengths"), (None, "no LoRA, but IA3")])
def test_adapters_that_servers_can_not_add_are_told(more: dict[str, Any] | None, said: str, tmp_path: Path) -> None:
    model, _ = saved("llama", tmp_path / "hf")
    names = ["q_proj", "k_proj"]
    of_ia3 = IA3Config(target_modules=names, feedforward_modules=[])
    config = of_ia3 if more is None else LoraConfig(target_modules=names, **more)
    tuned: Any = get_peft_model(model, config)
    tuned.save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match=said):
        write_adapter(tmp_path / "adapter", tmp_path / "hf", tmp_path / "adapter.gguf", "f32")


@pytest.mark.parametrize(("rank", "asked"), [(4, 8), (16, 16), (17, 32), (128, 128), (320, 320), (600, 600)])
def test_the_rank_that_vllm_must_be_told(rank: int, asked: int, tmp_path: Path) -> None:
    LoraConfig(r=rank, target_modules=["q_proj"]).save_pretrained(tmp_path)
    assert rank_for_vllm(tmp_path) == asked


@pytest.mark.parametrize(
    ("kind", "more", "said"),
    [
        ("gpt-neo", {}, "no GGUF is written of gpt_neo models"),
        ("gemma3", {}, "its attention is scaled by 256"),
        ("llama", {"rope_parameters": DYNAMIC}, "scaled by 'dynamic'"),
    ],
)
def test_what_llama_cpp_can_not_run_is_said(kind: str, more: dict[str, Any], said: str, tmp_path: Path) -> None:
    saved(kind, tmp_path / "hf", **more)
    with pytest.raises(UserError, match=said):
        write_gguf(tmp_path / "hf", tmp_path / "model.gguf", "f16", "tiny", 2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formats")
    recipe = write_recipe(folder)
    make_model("llama", width=64).save_pretrained(folder / "base")  # onnxruntime wants heads of 16 numbers
    assert run([str(recipe), "--methods", "lora,prompt,houlsby", "--out", str(folder / "run")]) == 0
    return folder / "run"


GGUF_FILES = {"model.gguf", "Modelfile"}
ONNX_FILES = {"model.onnx", "model.onnx.data", "genai_config.json", "tokenizer.json"}


@pytest.mark.parametrize(
    ("name", "quantization", "files"),
    [
        ("gguf", "f16", GGUF_FILES),
        ("gguf", "q8_0", GGUF_FILES),
        ("gguf-lora", "f32", {"adapter.gguf"}),
        ("onnx", "fp32", ONNX_FILES),
        ("openvino", "fp16", {"openvino_model.xml", "openvino_model.bin", "generation_config.json"}),
        ("peft", "float32", {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"}),
    ],
)
def test_a_method_is_exported(
    finished: Path, name: str, quantization: str, files: set[str], tmp_path: Path, capsys: Any
) -> None:
    to = tmp_path / "bank"
    asked = [str(finished), "--method", "lora", "--to", str(to), "--format", name, "--quantize", quantization]
    assert export(asked) == 0, capsys.readouterr()
    said = capsys.readouterr().out
    assert "beside what was trained" in said
    assert files | {"README.md", "MANIFEST.json"} <= {path.name for path in to.iterdir()}
    manifest = json.loads((to / "MANIFEST.json").read_text(encoding="utf-8"))
    assert (manifest["format"], manifest["quantization"], manifest["method"]) == (name, quantization, "lora")
    assert export(["--verify", str(to)]) == 0
    times = 2 if quantization == "q8_0" else 100
    assert times * manifest["proof"]["divergence"] < manifest["proof"]["base_divergence"]
    assert manifest["proof"]["comparison"]["items"] == 8


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_checkpoint_in_half_precision_is_scored_anew(
    finished: Path, precision: str, tmp_path: Path, capsys: Any
) -> None:
    to = tmp_path / "bank"
    asked = [str(finished), "--method", "prompt", "--to", str(to), "--precision", precision]
    assert export(asked) == 0, capsys.readouterr()
    assert "beside what was trained" in capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(to)
    assert model.dtype == getattr(torch, precision)
    before = AutoModelForCausalLM.from_pretrained(finished / "prompt" / "merged")
    for name, weight in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight.to(model.dtype)), name
    assert model.generation_config.suppress_tokens == [320, 321, 322, 323]
    assert export(["--verify", str(to)]) == 0


def test_numbers_too_large_for_float16_are_no_checkpoint(tmp_path: Path) -> None:
    model, _ = saved("llama", tmp_path / "hf")
    with torch.no_grad():
        model.get_parameter("model.norm.weight")[3] = 1e5
    model.save_pretrained(tmp_path / "hf")
    (tmp_path / "rounded").mkdir()
    hf, adapter = tmp_path / "hf", None
    sources = Sources(merged=hf, base=hf, adapter=adapter, name="tiny", end_of_turn=2)
    with pytest.raises(UserError, match=r"model.norm.weight holds numbers too large for float16"):
        find_format("hf").write(sources, tmp_path / "rounded", "float16")
    find_format("hf").write(sources, tmp_path / "rounded", "bfloat16")


FAST = """
recipe.settings["houlsby"]["learning_rate"] = recipe.settings["prefix"]["learning_rate"] = 0.05
"""


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run at 8 bits of adapters that become no checkpoint."""
    folder = tmp_path_factory.mktemp("adapters")
    methods = ["--methods", "houlsby,prefix", "--bits", "8"]
    assert run([str(write_recipe(folder, FAST)), *methods, "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.mark.parametrize("method", ["houlsby", "prefix"])
def test_stock_peft_reads_what_becomes_no_checkpoint(adapters: Path, method: str, tmp_path: Path, capsys: Any) -> None:
    """On the base at the bits that it was scored on."""
    to = tmp_path / "bank"
    assert export([str(adapters), "--method", method, "--to", str(to), "--format", "peft"]) == 0, capsys.readouterr()
    card = (to / "README.md").read_text(encoding="utf-8")
    assert "load_in_8bit=True" in card
    assert ("import workbench.methods.bottleneck" in card) == (method == "houlsby")
    assert GenerationConfig.from_pretrained(to).eos_token_id == [2]
    proof = json.loads((to / "MANIFEST.json").read_text(encoding="utf-8"))["proof"]
    assert 100 * proof["divergence"] < proof["base_divergence"]


def test_another_adapter_is_not_what_was_trained(adapters: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    def other(sources: Sources, folder: Path, quantization: str) -> None:
        known.write(sources, folder, quantization)
        file = folder / "adapter_model.safetensors"
        save_file({name: weight + 0.5 for name, weight in load_file(file).items()}, file)

    known = find_format("peft")
    monkeypatch.setattr(formats, "find_format", lambda name: replace(known, write=other))
    asked = [str(adapters), "--method", "prefix", "--to", str(tmp_path / "bank"), "--format", "peft"]
    assert export(asked) == 1
    assert "nats from the trained model's" in capsys.readouterr().out
    assert not (tmp_path / "bank").exists()


@pytest.mark.parametrize(("name", "quantization"), [("onnx", "fp32"), ("openvino", "fp16")])
def test_a_soft_prompt_is_not_said_where_nothing_forbids_it(
    finished: Path, name: str, quantization: str, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(verdict, "LIKELIEST", 324)  # where a soft prompt's entries are as likely as any
    to = tmp_path / "bank"
    asked = [str(finished), "--method", "prompt", "--to", str(to), "--format", name, "--quantize", quantization]
    assert export(asked) == 0, capsys.readouterr()
    hf = finished / "prompt" / "merged"
    sources = Sources(merged=hf, base=hf, adapter=None, name="tiny", end_of_turn=2)
    with find_format(name).open(sources, to, 128) as runtime:
        (prompt,) = runtime.prompt_ids([{"messages": [{"role": "user", "content": "a"}], "tools": None}])
        prompts = [prompt[: n + 1] for n in range(len(prompt))]
        answers = runtime.continued(prompts, 8)
    assert prompt[:4] == [320, 321, 322, 323]
    model = AutoModelForCausalLM.from_pretrained(hf)
    for ids, answer in zip(prompts, answers, strict=True):
        right = model.generate(torch.tensor([ids]), max_new_tokens=8)[0, len(ids) :].tolist()
        assert list(answer.tokens) == [token for token in right if token != 2]


def test_a_soft_prompt_is_exported_as_gguf(finished: Path, tmp_path: Path, capsys: Any) -> None:
    """Its virtual tokens stand in front of prompts there, too, and are never written."""
    to = tmp_path / "bank"
    assert export([str(finished), "--method", "prompt", "--to", str(to), "--format", "gguf"]) == 0, capsys.readouterr()
    fields = gguf.GGUFReader(to / "model.gguf").fields
    assert fields["tokenizer.ggml.suppress_tokens"].contents() == [320, 321, 322, 323]
    with opened(to / "model.gguf", 128) as runtime:
        (prompt,) = runtime.prompt_ids([{"messages": [{"role": "user", "content": "a"}], "tools": None}])
        answers = runtime.continued([prompt[: n + 1] for n in range(len(prompt))], 8)
    assert prompt[:4] == [320, 321, 322, 323]
    assert max(token for answer in answers for token in answer.tokens) < 320


def test_what_is_lost_is_refused(finished: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """A file that scores significantly less is no export, unless that is accepted; nor is one that is the base."""
    asked = [str(finished), "--method", "lora", "--format", "gguf", "--to"]

    def lost(*_: Any) -> list[Comparison]:
        return [Comparison(a="run", b="file", metric="bleu", split="test", difference=-4.0, low=-6.0, high=-2.0,
                           p=0.001, p_adjusted=0.001, items=8)]  # fmt: skip

    monkeypatch.setattr(formats, "compare_methods", lost)
    assert export([*asked, str(tmp_path / "lost")]) == 1
    assert "it scores -4.00 [-6.00, -2.00] bleu beside what was trained" in capsys.readouterr().out
    assert export([*asked, str(tmp_path / "accepted"), "--accept-loss"]) == 0
    monkeypatch.setattr(verdict, "BASE_TIMES", 1e9)
    assert export([*asked, str(tmp_path / "base"), "--quantize", "q8_0"]) == 1
    assert "too few bits for what was learned" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["accepted"]


def test_word_salad_is_refused(finished: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """Weights right to the bit, held in another order than llama.cpp reads them, or behind another template."""
    asked = [str(finished), "--method", "lora", "--format", "gguf", "--quantize", "f32", "--to", str(tmp_path / "x")]
    llama = settings.ARCHITECTURES["llama"]
    with monkeypatch.context() as patched:
        patched.setitem(settings.ARCHITECTURES, "llama", replace(llama, weight=lambda name, weight, config: weight))
        assert export(asked) == 1
    assert re.search(r"its next tokens are [\d.]+ nats from the trained model's", capsys.readouterr().out)
    other = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}"
    monkeypatch.setattr(gguf.GGUFWriter, "add_chat_template", lambda writer, _: writer.add_string(TEMPLATE, other))
    assert export(asked) == 1
    assert "its chat template writes other tokens than in the training" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_answers_wrongly_is_refused_by_the_sign_of_the_difference() -> None:
    metric = find_metric("bleu")
    example = Example(
        id="", prompt=({"role": "user", "content": "a"},), completion="It takes five business days abroad."
    )
    right = [replace(Prediction.of_reference(example, "test"), id=str(number), choices={}) for number in range(8)]
    wrong = [replace(answer, prediction="nothing of the kind") for answer in right]
    sound = verdict.Verdict(holds=True)
    (worse,) = compare_methods(metric, "test", {"run": [right], "file": [wrong]})
    (better,) = compare_methods(metric, "test", {"run": [wrong], "file": [right]})
    assert "it scores -100.00" in str(verdict.scored(sound, worse, metric.higher_is_better, False).reason)
    assert verdict.scored(sound, worse, metric.higher_is_better, True).holds
    assert verdict.scored(sound, better, metric.higher_is_better, False).holds


def test_a_file_finds_choices_as_likely_as_the_model_does(tmp_path: Path) -> None:
    """Choices of several tokens, one of them the beginning of another, and some that are no likely token."""
    model, _ = saved("llama", tmp_path / "hf")
    write_gguf(tmp_path / "hf", tmp_path / "model.gguf", "f32", "tiny", 2)
    renderer = make_renderer(load_tokenizer(tmp_path / "hf"))
    asked: list[Any] = [[{"role": "user", "content": text}] for text in TEXTS[:2]]
    choices = [["yes", "yes please", "no"], ["4", "5 days", "€"]]
    local = LocalModel(model, renderer)
    with opened(tmp_path / "model.gguf", 128) as runtime:
        file = RuntimeModel(runtime, renderer, model.config.vocab_size)
        for with_end in (True, False):
            right = local.loglikelihood(asked, choices, end_of_turn=with_end)
            found = file.loglikelihood(asked, choices, end_of_turn=with_end)
            for a, b in zip(right, found, strict=True):
                assert np.allclose(a.logprobs, b.logprobs, atol=0.02)
                assert list(a.tokens) == list(b.tokens)
                assert (a.constrained is None) == (b.constrained is None)
                if a.constrained is not None and b.constrained is not None:
                    assert np.allclose(a.constrained, b.constrained, atol=0.02)


def test_an_export_is_verified_later(finished: Path, tmp_path: Path, capsys: Any) -> None:
    to = tmp_path / "bank"
    assert export([str(finished), "--method", "lora", "--to", str(to)]) == 0
    assert export(["--verify", str(to)]) == 0
    said = capsys.readouterr().out
    assert "is what was exported" in said
    assert "recipe tiny, method lora, seed 0" in said
    flip_a_bit(to / "model.safetensors")
    (to / "README.md").unlink()
    (to / "adapter_config.json").write_text("{}", encoding="utf-8")
    assert export(["--verify", str(to)]) == 1
    said = capsys.readouterr().out
    for change in ("model.safetensors has changed", "README.md is missing", "adapter_config.json was not there"):
        assert change in said
    (to / "MANIFEST.json").write_text("[]", encoding="utf-8")
    assert export(["--verify", str(to)]) == 2
    assert export(["--verify", str(tmp_path)]) == 2
    assert "has no MANIFEST.json" in capsys.readouterr().err


def test_mistakes_are_told_in_a_line(finished: Path, tmp_path: Path, capsys: Any) -> None:
    def said(*more: str) -> str:
        assert export([str(finished), "--method", "lora", "--to", str(tmp_path / "x"), *more]) == 2
        return str(capsys.readouterr().err)

    assert export([str(finished), "--method", "houlsby", "--to", "x", "--format", "gguf"]) == 2
    assert "houlsby has no merged checkpoint to write as gguf" in capsys.readouterr().err
    assert export(["--method", "lora"]) == 2
    assert "missing: run, --to" in capsys.readouterr().err
    assert "unknown format 'ggml'" in said("--format", "ggml")
    assert "q8_0" in said("--format", "gguf", "--quantize", "q8")
    assert "--precision" in said("--format", "gguf", "--precision", "bfloat16")
    assert "--precision" in said("--quantize", "q8_0")
    assert "--accept-loss is for" in said("--accept-loss")
    assert export([str(finished), "--method", "untuned", "--to", "x", "--format", "peft"]) == 2
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


DEFAULT_SYSTEM = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BRACKETS = (
    "{{ '<|endoftext|>' }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% elif m['role'] == 'system' %}"
    "{{ '<<SYS>>\n\"' + m['content'] + '\"\n' }}"
    "{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
)


@pytest.mark.skipif(shutil.which("go") is None, reason="Go, in whose templates Ollama's are written, is not installed")
@pytest.mark.parametrize("template", [CHATML, DEFAULT_SYSTEM, BRACKETS])
def test_go_writes_from_a_modelfile_what_the_chat_template_does(template: str, tmp_path: Path) -> None:
    saved("llama", tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    tokenizer.chat_template = template
    turns = turns_of(make_renderer(tokenizer).template.text)
    assert turns is not None
    text = modelfile("model.gguf", turns, None, "<|im_end|>")
    (found,) = re.findall(r'TEMPLATE """(.*?)"""', text, re.DOTALL)
    contents = ['A {{ .Content }} with "quotes"\n  and `ticks`', "你好 €4", "yes", " spaces "]
    roles = ["user", "assistant", "user"]
    conversations = [
        [{"role": role, "content": content} for role, content in zip(some, contents, strict=False)]
        for some in (roles[:1], roles, ["system", *roles[:1]], ["system", *roles])
    ]
    asked = {
        "Template": found,
        "Conversations": [
            [{"Role": m["role"], "Content": m["content"]} for m in messages] for messages in conversations
        ],
    }
    command = ["go", "run", str(Path(__file__).with_name("modelfile.go"))]
    environment = {**os.environ, "GOCACHE": str(tmp_path / "cache"), "GOFLAGS": "-mod=mod"}
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=True, env=environment)
    for written, messages in zip(json.loads(done.stdout), conversations, strict=True):
        assert written == tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


def test_the_help_names_every_format_and_quantization() -> None:
    said = " ".join(export_parser().format_help().split())
    for name, one in known_formats().items():
        assert all(word in said for word in (name, *one.quantizations))
