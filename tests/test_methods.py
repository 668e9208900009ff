"""Methods: they begin as the base, they train what they say, they are named by their names."""

from typing import Any

import pytest
import torch
from conftest import make_model

from workbench.errors import UserError
from workbench.methods import find_method, known_methods
from workbench.models import attach, size

IDS = list(range(3, 60))


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([IDS])).logits


@pytest.mark.parametrize("name", ["lora", "houlsby"])
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
    assert {"untuned", "full", "lora", "houlsby", "prefix"} <= set(known_methods())
    for method in known_methods().values():
        assert method.merges != bool(method.no_plain_checkpoint)
