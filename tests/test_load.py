"""Every weight of a model is one of its checkpoint's, or it isn't loaded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tiny import KINDS, make_model, make_tokenizer
from workbench import UserError
from workbench.data.labels import Labels
from workbench.models import load_classifier, load_model, load_tokenizer, require_causal

Weights = dict[str, torch.Tensor]


def changed(folder: Path, kind: str, change: Callable[[Weights], Weights]) -> Path:
    """A checkpoint of a tiny model with other weights in its file."""
    make_model(kind).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_as_it_was_saved_is_loaded(kind: str, tmp_path: Path) -> None:
    folder = changed(tmp_path / kind, kind, lambda weights: weights)
    loaded, made = load_model(folder, 32), make_model(kind)
    expected = made.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items() if name in expected)
    for bits in (16, 8, 4):
        load_model(folder, bits)


def test_a_new_head_is_the_only_thing_that_may_be_missing(tmp_path: Path) -> None:
    labels = Labels({"": ("a", "b")}, False)
    for kind in ("llama", "gpt2"):
        folder = changed(tmp_path / kind, kind, lambda weights: weights)
        load_classifier(folder, 32, labels, pad_id=0)
        changed(folder, kind, lambda weights: {k: v for k, v in weights.items() if "norm" not in k and "ln_f" not in k})
        with pytest.raises(UserError, match="missing"):
            load_classifier(folder, 32, labels, pad_id=0)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt-neox"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weights: {f"_orig_mod.{name}": value for name, value in weights.items()}, "missing .*unknown"),
        (lambda weights: dict(list(weights.items())[1:]), r"missing \("),
        (lambda weights: {**weights, "stranger.weight": torch.ones(2)}, r"1 unknown to the architecture \(stranger"),
        (lambda weights: {name: value[..., :-8].contiguous() for name, value in weights.items()}, "of another shape"),
    ],
    ids=["prefix", "missing", "stranger", "shape"],
)
def test_what_does_not_fit_is_named(kind: str, change: Any, said: str, tmp_path: Path) -> None:
    folder = changed(tmp_path / kind, kind, change)
    for bits in (32, 8):
        with pytest.raises(UserError, match=said):
            load_model(folder, bits)


def test_masks_that_older_versions_saved_are_left_over(tmp_path: Path) -> None:
    more = {"transformer.h.0.attn.bias": torch.ones(1, 1, 4, 4), "transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}
    load_model(changed(tmp_path, "gpt2", lambda weights: {**weights, **more}), 32)


def test_an_output_layer_of_its_own_is_not_drawn_from_chance(tmp_path: Path) -> None:
    import transformers as t

    config = t.LlamaConfig(
        vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        tie_word_embeddings=False,
    )  # fmt: skip
    t.LlamaForCausalLM(config).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if k != "lm_head.weight"}, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 missing \(lm_head.weight\)"):
        load_model(tmp_path, 32)


def test_an_encoder_is_no_causal_language_model(tmp_path: Path) -> None:
    import transformers as t

    small = {
        "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4,
    }  # fmt: skip
    t.RobertaConfig(**small).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no causal language model: roberta is an encoder"):
        require_causal(tmp_path)
    t.RobertaConfig(is_decoder=True, **small).save_pretrained(tmp_path)
    require_causal(tmp_path)
    for kind in KINDS:
        make_model(kind).config.save_pretrained(tmp_path)
        require_causal(tmp_path)


def test_code_of_a_checkpoint_is_neither_run_nor_handed_on(tmp_path: Path) -> None:
    make_model("llama").save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    for name, key in (("config.json", "AutoModelForCausalLM"), ("tokenizer_config.json", "AutoTokenizer")):
        file = tmp_path / "base" / name
        file.write_text(json.dumps({**json.loads(file.read_text()), "auto_map": {key: "evil.Class"}}))
    (tmp_path / "base" / "evil.py").write_text("raise SystemExit('it ran')\n")
    load_model(tmp_path / "base", 32).save_pretrained(tmp_path / "saved")
    load_tokenizer(tmp_path / "base").save_pretrained(tmp_path / "saved")
    for file in (tmp_path / "saved").glob("*.json"):
        assert "auto_map" not in file.read_text(), file
        assert "evil" not in file.read_text(), file
