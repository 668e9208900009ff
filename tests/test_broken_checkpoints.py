"""A checkpoint of others whose files are broken, or ask for all memory, is refused in a line that names the file."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tiny import make_model, make_tokenizer
from workbench.data.render import make_renderer
from workbench.errors import UserError
from workbench.models import load_model, load_tokenizer, require_causal, require_sizes, require_weights
from workbench.sources import fetch_checkpoint

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    make_model("llama").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def opened(folder: Path) -> None:
    """All that a run does with a checkpoint before it trains."""
    path = fetch_checkpoint(str(folder)).path
    require_causal(path)
    require_weights(path, 32)
    require_sizes(path)
    make_renderer(load_tokenizer(path))
    load_model(path, 32)


def header(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    """Weights with something changed in what stands before them."""

    def changed(content: bytes) -> bytes:
        (length,) = struct.unpack("<Q", content[:8])
        values = json.loads(content[8 : 8 + length])
        change(values)
        written = json.dumps(values).encode()
        return struct.pack("<Q", len(written)) + written + content[8 + length :]

    return changed


def field(**values: Any) -> Callable[[bytes], bytes]:
    """JSON with other values in it."""
    return lambda content: json.dumps({**json.loads(content), **values}).encode()


EMBEDDING = "model.embed_tokens.weight"
BROKEN: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "empty weights": (WEIGHTS, lambda content: b"", WEIGHTS),
    "three bytes of weights": (WEIGHTS, lambda content: content[:3], WEIGHTS),
    "weights cut in the header": (WEIGHTS, lambda content: content[:100], WEIGHTS),
    "weights cut at the end": (WEIGHTS, lambda content: content[:-7], WEIGHTS),
    "a header of four exabytes": (WEIGHTS, lambda content: struct.pack("<Q", 2**62) + content[8:], WEIGHTS),
    "a header that is no JSON": (WEIGHTS, lambda content: content[:8] + b"x" + content[9:], WEIGHTS),
    "zeros": (WEIGHTS, lambda content: bytes(len(content)), WEIGHTS),
    "text": (WEIGHTS, lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:0", WEIGHTS),
    "a tensor beyond the file": (
        WEIGHTS, header(lambda values: values[EMBEDDING].update(data_offsets=[0, 2**50])), WEIGHTS,
    ),
    "a shape that is not its bytes": (WEIGHTS, header(lambda values: values[EMBEDDING].update(shape=[9, 9])), WEIGHTS),
    "a shape of exabytes": (WEIGHTS, header(lambda values: values[EMBEDDING].update(shape=[2**40, 2**20])), WEIGHTS),
    "an unknown type": (WEIGHTS, header(lambda values: values[EMBEDDING].update(dtype="X7")), WEIGHTS),
    "an empty configuration": (CONFIG, lambda content: b"", CONFIG),
    "a configuration that is a list": (CONFIG, lambda content: b"[]", CONFIG),
    "a configuration that is cut": (CONFIG, lambda content: content[:50], CONFIG),
    "a deep configuration": (CONFIG, lambda content: b'{"a":' * 10**5 + b"1" + b"}" * 10**5, CONFIG),
    "no text": (CONFIG, lambda content: b"\xff\xfe" + content, CONFIG),
    "an unknown architecture": (CONFIG, field(model_type="nothing", architectures=["None"]), CONFIG),
    "two thousand million layers": (CONFIG, field(num_hidden_layers=2 * 10**9), "2000000000 layers"),
    "layers that are no number": (CONFIG, field(num_hidden_layers="x"), CONFIG),
    "a vocabulary of a million millions": (CONFIG, field(vocab_size=10**12), r"parameters, and its weights have"),
    "a width of a hundred thousand": (CONFIG, field(hidden_size=10**5), r"parameters, and its weights have"),
    "a width below 0": (CONFIG, field(hidden_size=-8), "can't be loaded|can't read"),
    "heads that don't divide": (CONFIG, field(num_attention_heads=7), "can't read|don't fit|can't be loaded"),
    "an empty tokenizer": (TOKENIZER, lambda content: b"", "tokenizer"),
    "a tokenizer that is cut": (TOKENIZER, lambda content: content[:200], "tokenizer"),
    "a tokenizer that is a list": (TOKENIZER, lambda content: b"[1]", "tokenizer"),
    "a tokenizer of another kind": (TOKENIZER, field(model={"type": "Nothing"}), "tokenizer"),
    "settings that are a list": ("tokenizer_config.json", lambda content: b"[]", "tokenizer"),
    "a template that is none": ("chat_template.jinja", lambda content: b"{% for x in %}", "template"),
    "a template that fails": ("chat_template.jinja", lambda content: b"{{ messages[7].content }}", "template"),
    "a template that is no text": ("chat_template.jinja", lambda content: b"\xff\xfe\xff", "tokenizer|template"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_it_is_one_line(name: str, sound: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sound, tmp_path / "broken"))
    file, change, said = BROKEN[name]
    (folder / file).write_bytes(change((folder / file).read_bytes()))
    with pytest.raises(UserError, match=said) as raised:
        opened(folder)
    assert "\n" not in str(raised.value)


def test_a_sound_one_is_opened(sound: Path) -> None:
    opened(sound)
