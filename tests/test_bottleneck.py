"""The bottleneck tuner, as a PEFT tuner."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model
from peft import PeftModel, get_peft_model

from workbench.methods.bottleneck import BottleneckConfig, BottleneckLayer
from workbench.methods.bottleneck.structure import output_projections

IDS = torch.arange(3, 40)[None]


def adapted(kind: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = BottleneckConfig(task_type="CAUSAL_LM", bottleneck_size=4, init_weights=False, **settings)
    return get_peft_model(make_model(kind), config).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(IDS).logits


def test_it_stands_behind_every_attention_and_feed_forward_block(kind: str) -> None:
    names = {"gpt2": ("attn.c_proj", "mlp.c_proj"), "llama": ("self_attn.o_proj", "mlp.down_proj")}[kind]
    found = output_projections(make_model(kind))
    assert len(found) == 4
    assert all(name.endswith(names) for name in found)
    assert sum(isinstance(m, BottleneckLayer) for m in adapted(kind).modules()) == 4


def test_its_output_is_that_of_the_formula(kind: str) -> None:
    layer = next(m for m in adapted(kind).modules() if isinstance(m, BottleneckLayer))
    x = torch.randn(2, 3, layer.in_features)
    y = layer.base_layer(x)
    down, up = layer.bottleneck_down["default"], layer.bottleneck_up["default"]
    expected = y + up(torch.nn.functional.gelu(down(y)))
    assert torch.allclose(layer(x), expected, atol=1e-6)


def test_what_is_saved_is_what_is_loaded(kind: str, tmp_path: Path) -> None:
    model = adapted(kind)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_model(kind), tmp_path).eval()
    assert torch.equal(logits(loaded), logits(model))
    assert not torch.allclose(logits(loaded), logits(make_model(kind)), atol=1e-2)


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
    model.add_adapter("second", BottleneckConfig(task_type="CAUSAL_LM", bottleneck_size=8, init_weights=False))
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


def test_unloaded_it_leaves_the_base_and_it_refuses_to_merge(kind: str) -> None:
    assert torch.equal(logits(adapted(kind).unload()), logits(make_model(kind)))
    with pytest.raises(NotImplementedError, match="can't be merged"):
        adapted(kind).merge_and_unload()


def test_gradients_flow_with_checkpointing_too(kind: str) -> None:
    def gradient(checkpointing: bool) -> torch.Tensor:
        model = adapted(kind).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        model(IDS, labels=IDS).loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None and p.requires_grad])

    assert torch.allclose(gradient(False), gradient(True), atol=1e-5)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        BottleneckConfig(bottleneck_size=0)
