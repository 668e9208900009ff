"""What else a training changed: forgetting, what can be told from outside, what is known by heart."""

from typing import Any

import numpy as np
import pytest
import torch

from tiny import make_model, make_tokenizer
from workbench.data import Example
from workbench.data.render import Rendered, make_renderer
from workbench.evaluation.changes import (
    TokenLosses,
    general_loss,
    general_text,
    membership,
    token_losses,
    told_spans,
    verbatim,
)
from workbench.training.loss import completion_losses


def rendered(tokenizer: Any, *pairs: tuple[str, str]) -> list[Rendered]:
    renderer = make_renderer(tokenizer)
    examples = [
        Example(id=str(number), prompt=({"role": "user", "content": asked},), completion=answer)
        for number, (asked, answer) in enumerate(pairs)
    ]
    return [renderer.render(example) for example in examples]


def test_losses_of_tokens_are_those_of_one_text_at_a_time(kind: str) -> None:
    model, tokenizer = make_model(kind).eval(), make_tokenizer()
    items = rendered(
        tokenizer, ("What does a transfer cost?", "A transfer costs €4."), ("你好", "5"), ("a" * 40, "b c d")
    )
    with torch.inference_mode():
        expected = completion_losses(model, items)
        logits = [model(torch.tensor([one.prompt_ids + one.completion_ids])).logits[0] for one in items]
    for one, losses, own, item in zip(token_losses(model, items, 0), expected, logits, items, strict=True):
        assert one.losses == pytest.approx(losses.numpy(), abs=1e-4)
        likeliest = own[-len(item.completion_ids) - 1 : -1].argmax(dim=-1)
        assert one.greedy.tolist() == (likeliest == torch.tensor(item.completion_ids)).tolist()


def test_the_general_text_is_read_by_every_tokenizer() -> None:
    assert len(general_text()) > 15
    assert any("一" <= letter <= "鿿" for letter in "".join(general_text()))
    loss = general_loss(make_model("llama").eval(), make_tokenizer())
    assert np.log(320) * 0.8 < loss < np.log(320) * 1.3  # a model that knows nothing of 320 tokens


def test_membership_is_the_area_under_the_curve() -> None:
    from sklearn.metrics import roc_auc_score

    drawn = np.random.default_rng(0)
    seen, unseen = drawn.normal(0, 1, 60).round(1), drawn.normal(0.7, 1, 90).round(1)
    found = membership(list(seen), list(unseen))
    expected = roc_auc_score([1] * 60 + [0] * 90, -np.concatenate([seen, unseen]))
    assert found.value == pytest.approx(expected)
    assert found.low < found.value < found.high < 1
    assert membership([1.0] * 10, [1.0] * 10).value == 0.5
    apart = membership([0.0] * 10, [1.0] * 10)
    assert (apart.value, apart.high) == (1.0, 1.0)
    assert apart.low == pytest.approx(0.025 ** (1 / 10))  # ten of each may hide a few that are otherwise
    assert token_losses(make_model("llama").eval(), [], 0) == []


def test_the_interval_of_membership_holds() -> None:
    drawn, inside = np.random.default_rng(1), 0
    for number in range(200):  # the area is 1/2
        found = membership(list(drawn.normal(size=30)), list(drawn.normal(size=30)), seed=number)
        inside += found.low <= 0.5 <= found.high
    assert 0.90 <= inside / 200 <= 0.98


def test_figures_and_names_that_do_not_stand_in_the_prompt() -> None:
    answer = "Please ask Anna Weber in Bern. It costs 4.50, and the limit is 900."
    told = [answer[begin:end] for begin, end in told_spans(answer, "Is the limit 900?")]
    assert told == ["Anna Weber", "Bern", "4.50"]


def test_what_is_known_by_heart_is_what_is_written_token_by_token() -> None:
    tokenizer = make_tokenizer()
    (item,) = rendered(tokenizer, ("What does it cost?", "By phone 4.50, abroad 2 and 17."))
    pieces = [tokenizer.decode(item.completion_ids[: n + 1]) for n in range(len(item.completion_ids))]
    greedy = np.array([not ("4" in text and "50" not in text) for text in pieces])  # the beginning of 4.50 is not known
    losses = TokenLosses(losses=np.zeros(len(pieces)), greedy=greedy)
    assert verbatim(tokenizer, [item], ["What does it cost?"], [losses]) == (2, 3)
    assert verbatim(tokenizer, [item], ["2"], [losses]) == (1, 2)
