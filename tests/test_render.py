"""From messages to tokens: what is trained is exactly the answer and the end of the turn."""

from dataclasses import replace
from typing import Any

import pytest

from tiny import rows
from workbench.data import conversation
from workbench.data.render import make_renderer, render_all
from workbench.errors import UserError


def test_the_prompt_is_a_prefix_and_the_end_of_turn_is_trained(tokenizer: Any) -> None:
    renderer = make_renderer(tokenizer)
    example = conversation(rows(1)[0])[0]
    rendered = renderer.render(example)
    assert tokenizer.decode(rendered.prompt_ids) == rendered.text
    assert tokenizer.decode(rendered.completion_ids) == example.completion + "<|im_end|>"
    assert rendered.completion_ids[-1] == renderer.end_of_turn == tokenizer.eos_token_id


def test_a_tokenizer_without_template_gets_one_that_ends_turns(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    renderer = make_renderer(tokenizer)
    rendered = renderer.render(conversation(rows(1)[0])[0])
    assert rendered.text.endswith("Assistant:")
    assert rendered.completion_ids[-1] == tokenizer.eos_token_id


def test_a_template_that_never_ends_a_turn_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    with pytest.raises(UserError, match="no special token after"):
        make_renderer(tokenizer)


def test_a_template_whose_prompt_is_no_prefix_is_refused(tokenizer: Any) -> None:
    renderer = make_renderer(tokenizer)
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant\n", "bot\n")
    with pytest.raises(UserError, match=r"row-0: the prompt is not a token prefix"):
        render_all(renderer, conversation(rows(1)[0]), 100)


def test_what_is_too_long_is_left_out_whole_and_named(tokenizer: Any) -> None:
    renderer = make_renderer(tokenizer)
    short, long = [example for row in rows(2) for example in conversation(row)]
    long = replace(long, completion=long.completion + " And more than that.")
    most = renderer.render(short).length
    fitting, too_long = render_all(renderer, [short, long], most)
    assert too_long == ["row-1"]
    assert list(fitting) == [(short, renderer.render(short))]
    nothing, too_long = render_all(renderer, [short, long], most - 1)
    assert (list(nothing), too_long) == ([], ["row-0", "row-1"])


def test_a_template_that_adds_to_the_answer_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "m['content'] +", "('<think></think>' if m['role'] == 'assistant' else '') + m['content'] +"
    )
    with pytest.raises(UserError, match="adds text of its own to the answer: '<think></think>It costs"):
        render_all(make_renderer(tokenizer), conversation(rows(1)[0]), 100)


def test_a_template_that_can_think_aloud_is_told_not_to(tokenizer: Any) -> None:
    think = "{% if enable_thinking is not defined or enable_thinking %}<think>{% endif %}"
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant\n' }}", "assistant\n' }}" + think)
    assert "<think>" not in make_renderer(tokenizer).render(conversation(rows(1)[0])[0]).text
