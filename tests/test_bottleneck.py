"""The bottleneck tuner, as a PEFT tuner."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model

from tiny import KINDS, make_model
from workbench.methods.bottleneck import BottleneckConfig, BottleneckLayer
from workbench.methods.bottleneck.structure import (
    ATTENTION,
    FEED_FORWARD,
    blocks,
    feed_forward,
    keys_and_values,
    width_setting,
)
from workbench.models import load_model

IDS = torch.arange(3, 40)[None]
PARALLEL: dict[str, Any] = {"places": ["feed_forward"], "parallel": True, "scale": 2.0}
# GPT-1 has no setting for the width of its blocks, gpt-oss has experts in them.
WIDENED = [kind for kind in KINDS if kind not in ("gpt1", "gpt-oss")]


def config(**settings: Any) -> BottleneckConfig:
    return BottleneckConfig(task_type="CAUSAL_LM", **{"bottleneck_size": 4, "init_weights": False, **settings})


def adapted(kind: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    return get_peft_model(make_model(kind), config(**settings)).eval()


def logits(model: Any, ids: torch.Tensor = IDS, **arguments: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=ids, **arguments).logits


def layers_of(model: Any) -> list[BottleneckLayer]:
    return [module for module in model.modules() if isinstance(module, BottleneckLayer)]


def test_it_stands_behind_every_attention_and_feed_forward_block(kind: str) -> None:
    names = {"gpt2": ("transformer.h.{}.attn", "transformer.h.{}.mlp")}
    attention, feed = names.get(kind, ("model.layers.{}.self_attn", "model.layers.{}.mlp"))
    assert blocks(make_model(kind), ATTENTION) == [attention.format(n) for n in (0, 1)]
    assert blocks(make_model(kind), FEED_FORWARD) == [feed.format(n) for n in (0, 1)]
    assert len(layers_of(adapted(kind))) == 4
    assert len(layers_of(adapted(kind, places=["feed_forward"]))) == 2
    assert len(layers_of(adapted(kind, layers_to_transform=[1]))) == 2


@pytest.mark.parametrize("architecture", KINDS)
def test_the_parts_of_a_feed_forward_block_are_found(architecture: str) -> None:
    model = make_model(architecture)
    parts = [feed_forward(model.get_submodule(name)) for name in blocks(model, FEED_FORWARD)]
    if architecture == "gpt-oss":
        assert parts == [None, None]
        return
    gated = architecture in ("llama", "qwen3", "gemma3")
    for part in parts:
        assert part is not None
        assert part.gate == ("gate_proj" if gated else None)
    expected = {"gpt2": "n_inner", "gpt-j": "n_inner", "gpt1": None}.get(architecture, "intermediate_size")
    assert width_setting(model) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("architecture", WIDENED)
def test_they_are_found_in_every_precision_where_large_numbers_overflow_too(
    architecture: str, dtype: torch.dtype
) -> None:
    model = make_model(architecture)
    for name in blocks(model, FEED_FORWARD):
        block = model.get_submodule(name)
        before = feed_forward(block)
        with torch.no_grad():
            for parameter in block.parameters():
                parameter.mul_(40)
        block.to(dtype)
        if dtype == torch.float16:
            assert not block(1000 * torch.randn(4, 32, dtype=dtype)).isfinite().all()
        assert before is not None
        assert feed_forward(block) == before


def test_an_adapter_is_refused_on_a_base_whose_blocks_are_of_another_kind(tmp_path: Path) -> None:
    adapted("gpt-neox", **PARALLEL).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["kinds"] == {"plain": 2}
    (tmp_path / "adapter_config.json").write_text(json.dumps({**saved, "kinds": {"gated": 2}}))
    with pytest.raises(ValueError, match=r"of the kinds 2 gated; on the .* they would be 2 plain"):
        PeftModel.from_pretrained(make_model("gpt-neox"), tmp_path)


def test_which_layer_is_the_gate_is_seen_by_computing() -> None:
    """Names that say the opposite don't mislead it."""
    model = make_model("llama")
    block = model.model.layers[0].mlp
    block.gate_proj, block.up_proj = block.up_proj, block.gate_proj

    class Renamed(type(block)):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down_proj(self.act_fn(self.up_proj(x)) * self.gate_proj(x))

    assert feed_forward(block).gate == "gate_proj"  # type: ignore[union-attr]
    block.__class__ = Renamed
    assert feed_forward(block).gate == "up_proj"  # type: ignore[union-attr]


def test_a_dropout_called_after_a_block_is_no_block() -> None:
    """Phi-3 defines its dropouts behind its blocks, and its output projection before the others."""
    from transformers import AutoModelForCausalLM, Phi3Config

    tiny = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = AutoModelForCausalLM.from_config(Phi3Config(vocab_size=320, pad_token_id=0, **tiny))
    assert blocks(model, ATTENTION) == ["model.layers.0.self_attn", "model.layers.1.self_attn"]
    assert blocks(model, FEED_FORWARD) == ["model.layers.0.mlp", "model.layers.1.mlp"]
    assert keys_and_values(model) == [f"model.layers.{n}.self_attn.qkv_proj" for n in (0, 1)]
    with pytest.raises(NotImplementedError, match="not of the kind of the block"):
        get_peft_model(model, config(**PARALLEL)).merge_and_unload()
    with pytest.raises(ValueError, match="Dropout has no weights"):
        get_peft_model(model, config(target_modules=["resid_mlp_dropout"]))


def test_its_output_is_that_of_the_formula(kind: str) -> None:
    layer = next(layer for layer in layers_of(adapted(kind, scale=0.5)) if layer.out_features == 32)
    assert layer.in_features == 32
    layer = layers_of(adapted(kind, places=["feed_forward"], scale=0.5))[0]
    x = torch.randn(2, 3, 32)
    y = layer.base_layer(x)
    down, up = layer.bottleneck_down["default"], layer.bottleneck_up["default"]
    assert torch.allclose(layer(x), y + 0.5 * up(torch.nn.functional.gelu(down(y))), atol=1e-6)
    beside = layers_of(adapted(kind, **PARALLEL, activation="relu"))[0]
    down, up = beside.bottleneck_down["default"], beside.bottleneck_up["default"]
    assert torch.allclose(beside(x), beside.base_layer(x) + 2 * up(torch.relu(down(x))), atol=1e-6)


@pytest.mark.parametrize("settings", [{}, PARALLEL], ids=["behind", "beside"])
def test_what_is_saved_is_what_is_loaded(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    model = adapted(kind, **settings)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_model(kind), tmp_path).eval()
    assert torch.equal(logits(loaded), logits(model))
    assert not torch.allclose(logits(loaded), logits(make_model(kind)), atol=1e-2)


@pytest.mark.parametrize("settings", [{}, PARALLEL], ids=["behind", "beside"])
@pytest.mark.parametrize("architecture", KINDS)
def test_it_begins_as_the_base(architecture: str, settings: dict[str, Any]) -> None:
    base = logits(make_model(architecture))
    assert torch.equal(logits(adapted(architecture, **settings, init_weights=True)), base)
    assert not torch.allclose(logits(adapted(architecture, **settings)), base, atol=1e-2)


def test_disabled_it_is_the_base_and_enabled_again_itself(kind: str) -> None:
    model, base = adapted(kind), logits(make_model(kind))
    before = logits(model)
    with model.disable_adapter():
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(model), before)


def test_several_adapters_live_on_one_base(kind: str) -> None:
    model = adapted(kind)
    first = logits(model)
    torch.manual_seed(5)
    model.add_adapter("second", config(bottleneck_size=8, **PARALLEL))
    assert torch.equal(logits(model), first)
    model.set_adapter("second")
    second = logits(model)
    assert not torch.allclose(first, second, atol=1e-2)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all(".second." in name for name in trained)
    model.set_adapter("default")
    assert torch.equal(logits(model), first)
    model.delete_adapter("second")
    assert torch.equal(logits(model), first)


def test_each_row_of_a_batch_may_have_its_own_adapter(kind: str) -> None:
    model = adapted(kind)
    torch.manual_seed(5)
    model.add_adapter("beside", config(**PARALLEL))
    ids = torch.cat([IDS, IDS + 1, IDS + 2, IDS + 3])
    mixed = logits(model, ids, adapter_names=["beside", "default", "__base__", "beside"])
    alone = {}
    for name in ("default", "beside"):
        model.set_adapter(name)
        alone[name] = logits(model, ids)
    with model.disable_adapter():
        alone["__base__"] = logits(model, ids)
    for row, name in enumerate(["beside", "default", "__base__", "beside"]):
        assert torch.allclose(mixed[row], alone[name][row], atol=1e-5), name
    with pytest.raises(ValueError, match="no adapter wrong"):
        logits(model, ids, adapter_names=["wrong"] * 4)
    with pytest.raises(ValueError, match="2 adapter_names for a batch of 4"):
        logits(model, ids, adapter_names=["default"] * 2)


def test_further_modules_are_trained_and_saved(tmp_path: Path) -> None:
    model = adapted("llama", modules_to_save=["lm_head"])
    with torch.no_grad():
        model.base_model.model.lm_head.modules_to_save["default"].weight.add_(0.1)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_model("llama"), tmp_path).eval()
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("architecture", WIDENED)
def test_beside_its_block_it_merges_into_a_wider_one(architecture: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = adapted(architecture, **PARALLEL)
    trained, base = logits(model), logits(make_model(architecture))
    merged = model.merge_and_unload(safe_merge=True)
    merged.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert (logits(loaded) - trained).abs().max() <= 1e-5 * trained.abs().max()
    assert (base - trained).abs().max() > 0.01
    more = sum(p.numel() for p in loaded.parameters()) - sum(p.numel() for p in make_model(architecture).parameters())
    assert more == sum(
        p.numel() for name, p in adapted(architecture, **PARALLEL).named_parameters() if "bottle" in name
    ) - (
        0 if architecture in ("llama", "qwen3", "gemma3") else 2 * 32  # biases behind the block are added to its own
    )


def test_layers_without_an_adapter_are_widened_by_nothing(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = adapted(kind, **PARALLEL, layers_to_transform=[1])
    trained = logits(model)
    model.merge_and_unload().save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert (logits(loaded) - trained).abs().max() <= 1e-5 * trained.abs().max()


def test_unmerged_the_block_is_exactly_what_it_was(kind: str) -> None:
    model = adapted(kind, **PARALLEL)
    before, base = logits(model), logits(make_model(kind))
    model.merge_adapter()
    assert torch.allclose(logits(model), before, atol=1e-4)
    model.unmerge_adapter()
    assert torch.equal(logits(model), before)
    assert torch.allclose(logits(model.unload()), base, atol=1e-5)


def test_beside_its_block_it_begins_with_the_blocks_own_neurons(kind: str) -> None:
    def weights(**settings: Any) -> tuple[torch.Tensor, torch.Tensor]:
        layer = layers_of(adapted(kind, **PARALLEL, **settings))[0]
        block: Any = layer.get_base_layer()
        own = block.c_fc.weight.t() if kind == "gpt2" else block.up_proj.weight
        return layer.bottleneck_down["default"].weight, own

    mine, own = weights(bottleneck_size=6)
    assert all((own == row).all(dim=1).any() for row in mine)
    assert len(torch.unique(mine, dim=0)) == 6
    wider, own = weights(bottleneck_size=200)
    assert all((wider == row).all(dim=1).any() for row in own)
    mine, own = weights(init_neurons="random")
    assert not any((own == row).all(dim=1).any() for row in mine)


def test_what_can_not_merge_says_why(kind: str) -> None:
    with pytest.raises(NotImplementedError, match="behind a block"):
        adapted(kind).merge_and_unload()
    with pytest.raises(NotImplementedError, match="not of the kind of the block"):
        adapted(kind, **PARALLEL, activation="relu").merge_and_unload()
    with pytest.raises(NotImplementedError, match=r"not of the kind .*GptOssMLP"):
        adapted("gpt-oss", **PARALLEL).merge_and_unload()
    with pytest.raises(NotImplementedError, match="no setting for the width"):
        adapted("gpt1", **PARALLEL).merge_and_unload()


def test_a_broken_adapter_is_not_merged() -> None:
    model = adapted("llama", **PARALLEL)
    with torch.no_grad():
        layers_of(model)[0].bottleneck_up["default"].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="broken"):
        model.merge_and_unload(safe_merge=True)


def test_unloaded_it_leaves_the_base(kind: str) -> None:
    for settings in ({}, PARALLEL):
        assert torch.equal(logits(adapted(kind, **settings).unload()), logits(make_model(kind)))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("settings", [{}, PARALLEL], ids=["behind", "beside"])
def test_it_learns_on_a_quantized_base(kind: str, settings: dict[str, Any], bits: int, tmp_path: Path) -> None:
    make_model(kind).save_pretrained(tmp_path)
    model: Any = get_peft_model(load_model(tmp_path, bits, training=True), config(**settings)).train()
    model(input_ids=IDS, labels=IDS).loss.backward()
    found = [p.grad for p in model.parameters() if p.requires_grad]
    assert found
    assert all(gradient is not None and gradient.isfinite().all() and gradient.any() for gradient in found)
    if settings:
        with pytest.raises(NotImplementedError, match="floating point"):
            model.merge_and_unload()


@pytest.mark.parametrize("settings", [{}, PARALLEL], ids=["behind", "beside"])
def test_gradients_flow_with_checkpointing_too(kind: str, settings: dict[str, Any]) -> None:
    def gradient(checkpointing: bool) -> torch.Tensor:
        model = adapted(kind, **settings).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        model(input_ids=IDS, labels=IDS).loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None and p.requires_grad])

    assert torch.allclose(gradient(False), gradient(True), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"bottleneck_size": 0}, "at least 1"), ({"places": ["mlp"]}, "places must be"), ({"dropout": 1.0}, "below 1")],
)
def test_bad_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        BottleneckConfig(**settings)


def test_an_architecture_without_such_blocks_says_what_it_has() -> None:
    from transformers import AutoModelForCausalLM, OPTConfig

    tiny = OPTConfig(hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=320)
    model = AutoModelForCausalLM.from_config(tiny)
    with pytest.raises(ValueError, match=r"no feed-forward block .*which has .*fc1.*name target_modules"):
        get_peft_model(model, config())
    assert len(layers_of(get_peft_model(model, config(target_modules=["fc2"])))) == 2


# What PEFT's own tests ask of a tuner (`testing_common.py`), as far as it is for a tuner to give.


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("architecture", WIDENED)
def test_it_is_merged_in_the_precision_of_the_base(architecture: str, dtype: torch.dtype) -> None:
    model = get_peft_model(make_model(architecture).to(dtype), config(**PARALLEL)).eval()
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode():
        before = model(input_ids=ids).logits.float()
        merged: Any = model.merge_and_unload(safe_merge=True)
        after = merged(input_ids=ids).logits.float()
    assert {parameter.dtype for parameter in merged.parameters()} == {dtype}
    assert torch.allclose(before, after, rtol=0, atol=float(0.05 * before.abs().max()))


def test_a_second_merge_warns_and_changes_nothing() -> None:
    model: Any = adapted("llama", **PARALLEL)
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode():
        model.merge_adapter()
        before = model(input_ids=ids).logits
        with pytest.warns(UserWarning, match="All adapters are already merged, nothing to do"):
            model.merge_adapter()
        assert torch.equal(model(input_ids=ids).logits, before)
        with pytest.warns(UserWarning, match="All adapters are already merged"):
            merged = model.merge_and_unload()
        assert merged.config.intermediate_size == 48 + 4
        assert torch.equal(merged(input_ids=ids).logits, before)
