"""The loss: of the answer's tokens only, equal to the plain one, whatever the batch."""

from typing import Any

import pytest
import torch

from tiny import make_model, make_tokenizer, rows
from workbench.data import conversation
from workbench.data.render import make_renderer, render_all
from workbench.methods import find_method
from workbench.models import attach
from workbench.training.loss import IGNORED, RightPadding, labelled, negative_log_likelihoods


def batch(count: int = 4) -> dict[str, torch.Tensor]:
    examples = [example for row in rows(count) for example in conversation(row)]
    rendered = list(render_all(make_renderer(make_tokenizer()), examples, 200)[0].rendered)
    return RightPadding(0)([labelled(item) for item in rendered])


@pytest.mark.parametrize("name", ["untuned", "lora", "houlsby", "prefix"])
def test_it_equals_the_models_own_loss(name: str, kind: str) -> None:
    settings = {"num_virtual_tokens": 4} if name == "prefix" else {}
    model = attach(make_model(kind), find_method(name), settings, list(range(3, 30)), 0)
    inputs = batch()
    with torch.inference_mode():
        expected = model(**inputs).loss
        losses, rows_of = negative_log_likelihoods(model, **inputs)
    assert len(losses) == (inputs["labels"] != IGNORED).sum()
    assert torch.bincount(rows_of).tolist() == (inputs["labels"] != IGNORED).sum(1).tolist()
    assert torch.allclose(losses.mean(), expected, rtol=1e-5)


def test_padding_changes_nothing(model: Any) -> None:
    inputs = batch()
    together, _ = negative_log_likelihoods(model, **inputs)
    alone = []
    for row in range(len(inputs["input_ids"])):
        length = int(inputs["attention_mask"][row].sum())
        alone.append(negative_log_likelihoods(model, **{k: v[row : row + 1, :length] for k, v in inputs.items()})[0])
    assert torch.allclose(together, torch.cat(alone), atol=1e-4)


def test_the_hook_is_gone_afterwards(model: Any) -> None:
    inputs = batch()
    negative_log_likelihoods(model, **inputs)
    assert model(inputs["input_ids"]).logits.shape[:2] == inputs["input_ids"].shape
