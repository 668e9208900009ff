"""A local model as a language model: the same text together and alone, whole and in pieces."""

from typing import Any

import numpy as np
import pytest
import torch
from peft import get_peft_model

from test_decode import config
from tiny import make_model, make_tokenizer
from workbench.data import Message
from workbench.data.render import make_renderer
from workbench.errors import UserError
from workbench.generation.engine import LocalModel
from workbench.generation.sampling import Sampler, Sampling, likely_tokens

QUESTIONS = ["What does a transfer cost?", "你好，转账要多少钱？", "Hello", "And abroad, by phone, in 5 days?"]


def asked(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


@pytest.fixture(params=["llama", "gpt1", "gpt2 prefix"])
def local(request: pytest.FixtureRequest) -> LocalModel:
    kind, _, adapter = request.param.partition(" ")
    torch.manual_seed(0)
    model: Any = make_model(kind)
    if adapter:
        model = get_peft_model(model, config(adapter)).eval()
    return LocalModel(model, make_renderer(make_tokenizer()))


@pytest.mark.parametrize(
    "sampling", [Sampling(max_new_tokens=12), Sampling(max_new_tokens=12, temperature=1.5, seed=3)]
)
def test_answers_do_not_depend_on_what_is_asked_together(local: LocalModel, sampling: Sampling) -> None:
    together = local.generate([asked(text) for text in QUESTIONS], sampling)
    if sampling.greedy:
        alone = [local.generate([asked(text)], sampling)[0] for text in QUESTIONS]
    else:  # what is drawn hangs on the place among the prompts
        alone = [local.generate([asked(text)] * (n + 1), sampling)[n] for n, text in enumerate(QUESTIONS)]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert any(answer.text for answer in together)
    assert [answer.prompt for answer in together] == [local.prompt(asked(text)) for text in QUESTIONS]


def test_the_same_seed_draws_the_same_and_another_one_something_else(local: LocalModel) -> None:
    def drawn(seed: int) -> list[str]:
        sampling = Sampling(max_new_tokens=12, temperature=2.0, seed=seed)
        return [answer.text for answer in local.generate([asked("Hello")] * 3, sampling)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert len(set(drawn(1))) > 1, "the same answer three times"


def test_drawing_from_one_token_is_greedy(local: LocalModel) -> None:
    greedy = local.generate([asked(text) for text in QUESTIONS], Sampling(max_new_tokens=8))
    for narrow in (
        Sampling(max_new_tokens=8, temperature=1, top_k=1),
        Sampling(max_new_tokens=8, temperature=1, top_p=1e-6),
    ):
        drawn = local.generate([asked(text) for text in QUESTIONS], narrow)
        assert [answer.text for answer in drawn] == [answer.text for answer in greedy]


@pytest.mark.parametrize(
    "sampling", [Sampling(max_new_tokens=24), Sampling(max_new_tokens=24, temperature=1.0, seed=5)]
)
def test_the_pieces_of_a_stream_are_the_answer(local: LocalModel, sampling: Sampling) -> None:
    for text in QUESTIONS:
        (whole,) = local.generate([asked(text)], sampling)
        pieces = list(local.stream(asked(text), sampling))
        assert "".join(pieces) == whole.text
        assert len(pieces) > 1 or len(whole.text.strip("\ufffd")) < 2


def test_an_answer_ends_at_a_stop_text(local: LocalModel) -> None:
    found = 0
    for text in QUESTIONS:
        (whole,) = local.generate([asked(text)], Sampling(max_new_tokens=24))
        middle = whole.text[len(whole.text) // 2 :][:2].strip()
        if not middle:
            continue
        found += 1
        sampling = Sampling(max_new_tokens=24, stop=("never said at all", middle))
        (cut,) = local.generate([asked(text)], sampling)
        assert cut.text == whole.text[: whole.text.index(middle)].rstrip()
        assert cut.finish_reason == "stop"
        assert cut.tokens <= whole.tokens
        assert "".join(local.stream(asked(text), sampling)) == cut.text
    assert found


def test_why_an_answer_ended() -> None:
    torch.manual_seed(0)
    local = LocalModel(make_model("llama"), make_renderer(make_tokenizer()))
    answers = local.generate([asked("Hello")] * 40, Sampling(max_new_tokens=60, temperature=4.0))
    assert {answer.finish_reason for answer in answers} == {"stop", "length"}
    for answer in answers:
        assert (answer.finish_reason == "stop") == (answer.tokens < 60)


def test_references_are_measured_as_choices_are(local: LocalModel) -> None:
    conversations = [asked(text) for text in QUESTIONS]
    references = ["It costs €4.", "4欧元。", "Hello!", "Yes."]
    answers = local.generate(conversations, Sampling(max_new_tokens=2), references=references)
    measured = local.loglikelihood(conversations, [[reference] for reference in references])
    for answer, found in zip(answers, measured, strict=True):
        assert answer.reference_nll == pytest.approx(-found.logprobs[0], rel=1e-4)
        assert answer.reference_tokens == found.tokens[0]
    assert local.generate(conversations[:1], Sampling(max_new_tokens=2))[0].reference_nll is None


def test_unlikely_tokens_are_left_out() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    assert likely_tokens(logits, Sampling(temperature=1, top_k=2))[0].tolist() == pytest.approx([0.625, 0.375, 0, 0])
    assert likely_tokens(logits, Sampling(temperature=1, top_p=0.6))[0].tolist() == pytest.approx([0.5, 0.3, 0, 0])
    assert likely_tokens(logits, Sampling(temperature=1))[0].tolist() == pytest.approx([0.5, 0.3, 0.15, 0.05])


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    sampling = Sampling(temperature=2.0, seed=0)
    rows = range(4000)
    logits = torch.log(torch.tensor([[0.64, 0.04, 0.32]])).expand(len(rows), -1)
    drawn = Sampler(sampling, rows).next_tokens(logits, rows).numpy()
    expected = np.sqrt([0.64, 0.04, 0.32])
    shares = np.bincount(drawn, minlength=3) / len(rows)
    assert shares == pytest.approx(expected / expected.sum(), abs=0.03)


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}, {"top_k": -1}, {"max_new_tokens": 0}, {"stop": ("",)}]
)
def test_a_wrong_value_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        Sampling(**wrong)
