"""The fast paths: the same numbers, and nothing left behind."""

from typing import Any

import pytest
import torch
from conftest import make_model
from peft import LoraConfig, get_peft_model

from workbench.models import fast_training
from workbench.models.attention import GROUPED, shares_heads

IDS = torch.arange(3, 63).view(2, 30)
MASK = torch.ones_like(IDS)
MASK[1, :7] = 0


def step(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    model.zero_grad()
    loss = model(IDS, labels=IDS).loss
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_and_gradients_are_those_of_peft(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(make_model("llama").to(dtype), config).train()
    loss, gradient = step(model)
    with fast_training(model) as taken:
        fast_loss, fast_gradient = step(model)
    assert taken == 14 + 5  # seven projections and two norms in each of two layers, and the last norm
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert torch.allclose(loss, fast_loss, rtol=tolerance)
    assert torch.nn.functional.cosine_similarity(gradient, fast_gradient, dim=0) > 1 - tolerance
    assert torch.allclose(gradient, fast_gradient, atol=tolerance * float(gradient.abs().max()))


def test_nothing_of_it_stays() -> None:
    model = get_peft_model(make_model("llama"), LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    with fast_training(model):
        assert any("forward" in vars(module) for module in model.modules())
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("setting", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}])
def test_what_it_does_not_compute_it_leaves_alone(setting: dict[str, Any]) -> None:
    config = LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM", **setting)
    model = get_peft_model(make_model("llama"), config)
    with fast_training(model) as taken:
        assert taken == 5  # the norms


def test_a_norm_of_another_formula_is_left_alone() -> None:
    with fast_training(make_model("gemma3")) as taken:  # Gemma multiplies by 1 + weight
        assert taken == 0


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_grouped_attention_equals_the_fused_one(kind: str) -> None:
    model = make_model(kind)
    assert shares_heads(model.config)
    with torch.inference_mode():
        model.set_attn_implementation("sdpa")
        expected = model(IDS, attention_mask=MASK).logits[MASK.bool()]
        model.set_attn_implementation(GROUPED)
        got = model(IDS, attention_mask=MASK).logits[MASK.bool()]
    assert torch.allclose(got, expected, atol=1e-4)


def test_grouped_attention_is_for_shared_heads_only() -> None:
    assert not shares_heads(make_model("gpt2").config)
