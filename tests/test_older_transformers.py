"""What is exported means the same to the oldest transformers that is promised for."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tiny import KINDS, make_config, make_tokenizer
from workbench.export.older import older_config, older_tokenizer, write_older_forms

OLDEST = ("transformers==4.57.6", "tokenizers==0.22.2", "huggingface_hub==0.36.2")
# Frequencies that are no version's default, so that a form that is not read shows.
THETA = 54321.0
READING = """
import json, sys
sys.path.insert(0, sys.argv[1])
import torch, transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, text = sys.argv[2:]
tokenizer = AutoTokenizer.from_pretrained(folder)
ids = tokenizer(text, add_special_tokens=False)["input_ids"]
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
chat = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True)
with torch.inference_mode():
    save_file({"logits": model(torch.tensor([ids])).logits.contiguous()}, folder + "/logits")
special = [token for token, known in tokenizer.added_tokens_decoder.items() if known.special]
print(json.dumps({"version": transformers.__version__, "ids": ids, "chat": chat, "special": special}))
"""


@pytest.fixture(scope="module")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The libraries, in a folder of their own."""
    folder = tmp_path_factory.mktemp("oldest")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *OLDEST]
    subprocess.run(command, check=True)
    return folder


def saved(kind: str, folder: Path) -> tuple[Any, Any]:
    """A model with other frequencies than the usual ones and a tokenizer with a special token more, in `folder`."""
    from transformers import AutoModelForCausalLM

    config = make_config(kind)
    for rope in _ropes(config):
        rope["rope_theta"] = THETA if rope is _ropes(config)[0] else THETA / 7
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|call|>"]})
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_older_forms(folder)
    return model, tokenizer


def _ropes(config: Any) -> list[dict[str, Any]]:
    rope = getattr(config, "rope_parameters", None) or {}
    return [rope] if "rope_theta" in rope else [part for part in rope.values() if isinstance(part, dict)]


def read_by(libraries: Path, folder: Path, text: str) -> tuple[dict[str, Any], torch.Tensor]:
    """What a process with other libraries makes of a checkpoint."""
    command = [sys.executable, "-I", "-c", READING, str(libraries), str(folder), text]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), load_file(folder / "logits")["logits"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_4_gives_the_same_logits(kind: str, oldest: Path, tmp_path: Path) -> None:
    model, tokenizer = saved(kind, tmp_path)
    text = "<|im_start|>user\nWhat does a transfer cost?<|call|><|im_end|>"
    told, logits = read_by(oldest, tmp_path, text)
    assert told["version"] == OLDEST[0].partition("==")[2]
    assert told["ids"] == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_tokens_to_ids("<|call|>") in told["special"]
    assert told["chat"].endswith("<|im_start|>assistant\n")
    with torch.inference_mode():
        torch.testing.assert_close(logits, model(torch.tensor([told["ids"]])).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_installed_transformers_reads_both_forms_as_one(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = saved(kind, tmp_path)
    read, ids = AutoModelForCausalLM.from_pretrained(tmp_path).eval(), tokenizer("A transfer<|call|>")["input_ids"]
    assert AutoTokenizer.from_pretrained(tmp_path)("A transfer<|call|>")["input_ids"] == ids
    with torch.inference_mode():
        torch.testing.assert_close(read(torch.tensor([ids])).logits, model(torch.tensor([ids])).logits)


def test_what_version_4_reads() -> None:
    scaled = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 150000.0, "original_max_position_embeddings": 512}
    yarn = {name: value for name, value in scaled.items() if name != "rope_theta"}
    assert older_config({"rope_parameters": scaled, "dtype": "float32"}) == {
        "torch_dtype": "float32", "rope_theta": 150000.0, "rope_scaling": yarn,
    }  # fmt: skip
    by_layer = {"full_attention": {"rope_type": "default", "rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    assert older_config({"rope_parameters": by_layer}) == {
        "rope_local_base_freq": 1e4, "rope_theta": 1e6, "rope_scaling": None,
    }  # fmt: skip
    neox = {"model_type": "gpt_neox", "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.25}}
    assert older_config(neox)["rotary_pct"] == 0.25
    assert older_config({"model_type": "gpt2", "n_positions": 1024}) == {"n_ctx": 1024}
    inner = {"rope_parameters": scaled}
    assert older_config({"text_config": inner})["text_config"] == {**inner, **older_config(inner)}
    named = older_tokenizer({"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<|call|>"]})
    assert named["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert (named["additional_special_tokens"], "extra_special_tokens" in named) == (["<|call|>"], False)
    assert older_tokenizer({"tokenizer_class": "GPT2Tokenizer"})["tokenizer_class"] == "GPT2Tokenizer"
