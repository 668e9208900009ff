"""GGUF files: read to the same model, and refused in a line where they are not what they say."""

import errno
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from tiny import make_model, make_tokenizer
from workbench.errors import UserError
from workbench.models.load import load_model, load_tokenizer
from workbench.sources import fetch_checkpoint

BLOCKS = 2


def turned(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """As llama.cpp holds queries and keys: halves of a head turn by turn."""
    return weight.view(heads, 2, -1, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)


def write_gguf(path: Path, model: Any, tokenizer: Any) -> None:
    """A model of Llama's architecture with a byte-level vocabulary, in float32."""
    writer, config = gguf.GGUFWriter(path, "llama"), model.config
    writer.add_name("tiny")
    writer.add_block_count(BLOCKS)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    vocabulary += [f"<unused{number}>" for number in range(config.vocab_size - len(vocabulary))]
    merges = [" ".join(pair) for pair in eval_merges(tokenizer)]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in vocabulary])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(tokenizer.chat_template)
    state = model.state_dict()
    parts = {
        "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    }  # fmt: skip
    named = {"token_embd": state["model.embed_tokens.weight"], "output_norm": state["model.norm.weight"]}
    for block in range(BLOCKS):
        for short, long in parts.items():
            weight = state[f"model.layers.{block}.{long}.weight"]
            if short in ("attn_q", "attn_k"):
                heads = config.num_attention_heads if short == "attn_q" else config.num_key_value_heads
                weight = turned(weight, heads)
            named[f"blk.{block}.{short}"] = weight
    for name, weight in named.items():
        writer.add_tensor(f"{name}.weight", weight.numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def eval_merges(tokenizer: Any) -> list[tuple[str, str]]:
    import json

    return [tuple(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.Q8.gguf"
    write_gguf(path, make_model("llama"), make_tokenizer())
    return path


@torch.inference_mode()
def test_a_file_becomes_the_same_model(sound: Path) -> None:
    checkpoint = fetch_checkpoint(str(sound))
    model, tokenizer = load_model(checkpoint.path, 32), load_tokenizer(checkpoint.path)
    text = "What does a transfer cost? 你好"
    ids = make_tokenizer()(text)["input_ids"]
    assert tokenizer(text)["input_ids"] == ids
    assert tokenizer.chat_template == make_tokenizer().chat_template
    expected = make_model("llama").half().float()(torch.tensor([ids])).logits
    torch.testing.assert_close(model(torch.tensor([ids])).logits, expected, rtol=1e-4, atol=1e-4)


def test_it_is_converted_once_and_a_file_of_that_name_with_other_weights_anew(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fetch_checkpoint(str(sound))
    other = tmp_path / sound.name
    content = bytearray(sound.read_bytes())
    content[-100] ^= 1
    other.write_bytes(content)
    assert fetch_checkpoint(str(other)).path != first.path
    monkeypatch.setattr("workbench.sources.checkpoints.convert_gguf", lambda *_: pytest.fail("converted again"))
    assert fetch_checkpoint(str(sound)) == first


def number_of(name: str, value: int) -> Callable[[bytes], bytes]:
    """The file with another value of a 32-bit number in its header."""

    def changed(content: bytes) -> bytes:
        place = content.index(name.encode()) + len(name) + 4
        return content[:place] + struct.pack("<I", value) + content[place + 4 :]

    return changed


def at(place: int, value: int, form: str = "<Q") -> Callable[[bytes], bytes]:
    """The file with a number at a place."""
    return lambda content: content[:place] + struct.pack(form, value) + content[place + struct.calcsize(form) :]


def length_of(name: str, value: int) -> Callable[[bytes], bytes]:
    """The file with another length of a list."""

    def changed(content: bytes) -> bytes:
        place = content.index(name.encode()) + len(name) + 8
        return at(place, value)(content)

    return changed


def tensor_number(name: str, skip: int, value: int, form: str) -> Callable[[bytes], bytes]:
    """The file with another number behind a tensor's name."""
    return lambda content: at(content.index(name.encode()) + len(name) + skip, value, form)(content)


BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda content: b"", "empty or cut off"),
    "no magic": (lambda content: b"ABCD" + content[4:], "does not begin with GGUF"),
    "another version": (at(4, 77, "<I"), "version 77; known: 2, 3"),
    "cut in the header": (lambda content: content[:300], "cut off at byte"),
    "cut in the weights": (lambda content: content[:-5000], r"its tensors would end at byte \d"),
    "zeros": (lambda content: bytes(len(content)), "does not begin with GGUF"),
    "four exabytes of tensors": (at(8, 2**62), "cut off at byte|stands there twice|characters|unknown|utf-8|decode"),
    "four exabytes of entries": (at(16, 2**62), "cut off at byte|unknown kind|twice|decode"),
    "a name of four exabytes": (at(24, 2**62), "cut off at byte 32, or says a length that is wrong"),
    "a list of four exabytes": (length_of("tokenizer.ggml.tokens", 2**62), "cut off at byte"),
    "two thousand million blocks": (number_of("llama.block_count", 2 * 10**9), "block_count is 2000000000, and its 20"),
    "a width beyond its tensors": (number_of("llama.embedding_length", 2**30), "embedding_length is 1073741824"),
    "heads beyond its tensors": (number_of("llama.attention.head_count", 2**31), "head_count is 2147483648"),
    "a hundred dimensions": (tensor_number("token_embd.weight", 0, 100, "<I"), "has 100 dimensions"),
    "a shape beyond the file": (tensor_number("token_embd.weight", 4, 2**50, "<Q"), "its tensors would end at byte"),
    "an unknown precision": (
        tensor_number("token_embd.weight", 20, 99, "<I"),
        "99 is not a valid GGML",
    ),
    "weights beyond the file": (tensor_number("token_embd.weight", 24, 2**60, "<Q"), "its tensors would end at byte"),
    "another architecture": (lambda content: content.replace(b"llama", b"lxama"), "lxama"),
    "another shape": (tensor_number("output_norm.weight", 4, 16, "<Q"), "can't be read as GGUF: "),
    "a name that is no text": (lambda content: content.replace(b"tiny", b"\xff\xfe\xff\xfe"), "utf-8"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_line(name: str, sound: Path, tmp_path: Path, cache: Path) -> None:
    change, expected = BROKEN[name]
    path = tmp_path / "broken.gguf"
    path.write_bytes(change(sound.read_bytes()))
    with pytest.raises(UserError, match=expected) as raised:
        fetch_checkpoint(str(path))
    assert str(raised.value).startswith(f"{path.name} can't be read as GGUF: ")
    assert "\n" not in str(raised.value)
    assert not [path for path in cache.glob("checkpoints/*") if path.is_dir()]


def test_what_lies_beside_a_file_is_not_read(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(sound.read_bytes())
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "nobody/nothing", "peft_type": "LORA"}')
    (tmp_path / "config.json").write_text("{")
    assert (fetch_checkpoint(str(path)).path / "model.safetensors").is_file()


def test_a_full_disk_is_no_broken_file(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **more: Any) -> None:
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", fails)
    path = tmp_path / "model.gguf"
    path.write_bytes(sound.read_bytes()[:-4] + b"x" + sound.read_bytes()[-3:])
    with pytest.raises(OSError, match="No space left") as raised:
        fetch_checkpoint(str(path))
    assert raised.value.errno == errno.ENOSPC


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file \S+none\.gguf"):
        fetch_checkpoint(str(tmp_path / "none.gguf"))
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"notes\.txt is a file: give the folder of a checkpoint"):
        fetch_checkpoint(str(tmp_path / "notes.txt"))
