"""Methods: they begin as the base, they train what they say, they are named by their names."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict

from tiny import SETTINGS, make_model
from workbench.errors import UserError
from workbench.methods import Mergeable, NotMergeable, find_method, known_methods
from workbench.models import attach, size

IDS = list(range(3, 60))


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([IDS])).logits


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", [name for name in known_methods() if name not in ("untuned", "full")])
def test_an_adapter_is_the_same_on_a_base_of_half_precision(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """PEFT loads what it finds places for and only warns of the rest."""
    torch.manual_seed(0)
    settings = {**SETTINGS.get(name, {}), **({"init_weights": False} if name in BOTTLENECKS else {})}
    trained: Any = attach(make_model("llama"), find_method(name), settings, IDS, 0).eval()
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    trained.save_pretrained(tmp_path)
    base = make_model("llama").to(dtype)
    loaded: Any = PeftModel.from_pretrained(base, tmp_path).eval()
    before, after = get_peft_model_state_dict(trained), get_peft_model_state_dict(loaded)
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[key].float(), after[key].float(), rtol=1e-2, atol=1e-3) for key in before)
    with torch.inference_mode():
        mask = torch.ones(1, len(IDS)).long()
        mine, again = (model(torch.tensor([IDS]), attention_mask=mask).logits.float() for model in (trained, loaded))
    plain = logits(make_model("llama"))
    assert (mine - again).abs().max() < 0.2 * (mine[:, -len(IDS) :] - plain).abs().max()


BOTTLENECKS = ("houlsby", "pfeiffer", "parallel")
BEGIN_AS_BASE = ["lora", "rslora", "dora", "adalora", "ia3", "houlsby", "pfeiffer", "parallel"]


@pytest.mark.parametrize("name", BEGIN_AS_BASE)
def test_adapters_begin_exactly_as_the_base(name: str, kind: str) -> None:
    base = logits(make_model(kind))
    attached = attach(make_model(kind), find_method(name), {}, IDS, seed=0)
    assert torch.equal(logits(attached), base)
    assert 0 < size(attached).trainable < size(attached).total


def test_prefix_begins_as_the_base_behind_real_text(kind: str) -> None:
    """Its keys and values are those of the typical tokens, so it must say what the base says behind them."""
    attached = attach(make_model(kind), find_method("prefix"), {"num_virtual_tokens": 5}, IDS[:5], seed=0)
    with torch.inference_mode():
        behind = make_model(kind)(torch.tensor([IDS[:5] + IDS])).logits[:, 5:]
        mine = attached(torch.tensor([IDS]), attention_mask=torch.ones(1, len(IDS)).long()).logits
    assert torch.allclose(mine, behind, atol=1e-4)


def test_the_same_seed_draws_the_same_adapter(model: Any, kind: str) -> None:
    def drawn(seed: int) -> torch.Tensor:
        torch.rand(3)  # whatever was drawn before
        attached = attach(make_model(kind), find_method("houlsby"), {}, IDS, seed)
        return torch.cat([p.flatten() for p in attached.parameters() if p.requires_grad])

    assert torch.equal(drawn(7), drawn(7))
    assert not torch.equal(drawn(7), drawn(8))


def test_full_trains_everything_and_untuned_nothing(kind: str) -> None:
    full = size(attach(make_model(kind), find_method("full"), {}, IDS, 0))
    assert full.trainable == full.total
    assert size(attach(make_model(kind), find_method("untuned"), {}, IDS, 0)).trainable == 0
    assert not find_method("untuned").trains


def test_an_unknown_setting_is_the_users_mistake(model: Any) -> None:
    with pytest.raises(UserError, match=r"houlsby with .*bottleneck_sise"):
        attach(model, find_method("houlsby"), {"bottleneck_sise": 8}, IDS, 0)


def test_an_unknown_method_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean houlsby"):
        find_method("hulsby")


def test_every_method_says_how_it_ships() -> None:
    names = "untuned full lora rslora dora adalora ia3 houlsby pfeiffer parallel prefix prompt ptuning"
    assert set(known_methods()) == set(names.split())
    for method in known_methods().values():
        if isinstance(method.merge, NotMergeable):
            assert method.mergeability() != Mergeable()
            assert method.merge.reason
        else:
            assert callable(method.merge)


def test_prompt_begins_as_the_base_behind_real_text(kind: str) -> None:
    attached = attach(make_model(kind), find_method("prompt"), {"num_virtual_tokens": 5}, IDS[:5], seed=0)
    with torch.inference_mode():
        behind = make_model(kind)(torch.tensor([IDS[:5] + IDS])).logits[:, 5:]
        mine = attached(torch.tensor([IDS]), attention_mask=torch.ones(1, len(IDS)).long()).logits[:, 5:]
    assert torch.allclose(mine, behind, atol=1e-4)


def test_a_model_that_a_method_can_not_be_used_with_is_refused() -> None:
    with pytest.raises(UserError, match=r"prefix can't be used here: OpenAIGPT.* no keys and values"):
        attach(make_model("gpt1"), find_method("prefix"), {"num_virtual_tokens": 4}, IDS, 0)


@pytest.mark.parametrize("settings", [{"init_r": 8, "target_r": 8}, {"tinit": 90}, {"total_step": 1000}])
def test_an_impossible_rank_schedule_is_refused(settings: dict[str, int]) -> None:
    with pytest.raises(UserError, match="adalora with"):
        attach(make_model("llama"), find_method("adalora"), settings, IDS, 0, steps=100)


def test_ia3_finds_keys_values_and_inner_activations() -> None:
    def adapted(kind: str) -> list[str]:
        tuned = attach(make_model(kind), find_method("ia3"), {}, IDS, 0)
        names = {name.split(".ia3_l")[0].split(".0.")[-1] for name, _ in tuned.named_parameters() if "ia3_l" in name}
        return sorted(name for name in names if ".1." not in name)

    assert adapted("llama") == ["mlp.down_proj", "self_attn.k_proj", "self_attn.v_proj"]
    assert adapted("gpt1") == adapted("gpt2") == ["attn.c_attn", "mlp.c_proj"]
    assert adapted("gpt-neo") == ["attn.attention.k_proj", "attn.attention.v_proj", "mlp.c_proj"]
    assert adapted("gpt-j") == ["attn.k_proj", "attn.v_proj", "mlp.fc_out"]
    assert adapted("gpt-neox") == ["attention.query_key_value", "mlp.dense_4h_to_h"]
    assert adapted("gpt-oss") == ["self_attn.k_proj", "self_attn.v_proj"]


def test_doras_norms_are_those_of_the_whole_matrix(kind: str) -> None:
    """Against PEFT's own formula, which makes the matrix."""
    from peft.tuners.lora.variants import DoraLinearVariant

    from workbench.methods.peft_layers.dora import ExactDora

    tuned: Any = attach(make_model(kind), find_method("dora"), {"r": 4}, IDS, 0)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    mine, replaced = logits(tuned), 0
    for module in tuned.modules():
        if hasattr(module, "lora_variant") and module.lora_variant:
            replaced += isinstance(module.lora_variant["default"], ExactDora)
            module.lora_variant["default"] = DoraLinearVariant()
    assert replaced
    assert torch.allclose(mine, logits(tuned), atol=1e-4)
    assert not torch.allclose(mine, logits(make_model(kind)), atol=1e-1)


def test_dora_of_an_embedding_is_pefts_own() -> None:
    settings = {"r": 4, "target_modules": ["q_proj", "embed_tokens"]}
    attached = attach(make_model("llama"), find_method("dora"), settings, IDS, 0)
    assert torch.isfinite(logits(attached)).all()
