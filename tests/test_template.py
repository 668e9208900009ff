"""What a chat template does to a conversation, and what of it a job decides."""

from datetime import date
from typing import Any

import pytest

from tiny import CHATML, make_tokenizer
from workbench.data import conversation
from workbench.data.pairs import Rendered
from workbench.data.render import Renderer, make_renderer
from workbench.errors import UserError

SYSTEM = {"role": "system", "content": "You are a clerk."}
USER = {"role": "user", "content": "What does it cost?"}
ANSWER = {"role": "assistant", "content": "It costs 3."}
# A template that lets the model think aloud unless it is told not to, and writes thoughts of the last answer only.
THINKING = (
    "{% for m in messages %}{% set said = m['content'].split('</think>')[-1].strip() %}"
    "{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}"
    "{% set thought = m['content'].split('</think>')[0] if '</think>' in m['content'] else '' %}"
    "{{ '<think>\n' + thought.replace('<think>', '').strip() + '\n</think>\n\n' }}{% endif %}"
    "{{ said + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
# A template that names a channel between the role and the text of an answer.
CHANNELS = (
    "{% for m in messages %}"
    "{{ '<|start|>' + m['role'] + ('<|channel|>final' if m['role'] == 'assistant' else '') + '<|message|>' }}"
    "{{ m['content'] + ('<|im_end|>' if m['role'] == 'assistant' else '<|end|>') }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
DATED = "{{ 'Today is ' + strftime_now('%d %b %Y') + '. ' }}" + CHATML
REFUSING = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
SILENT = CHATML.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")


# A template that writes the system message with the last question only, and none in front of an answer.
LATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'user' and loop.last and messages[0]['role'] == 'system' %}{{ messages[0]['content'] + ' ' }}"
    "{% endif %}{% if m['role'] == 'user' %}{{ '<|start|>' + m['content'] + '<|end|>' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
)


def with_template(template: str, named: bool = True) -> Any:
    """A tokenizer with that template; its tokens for turns are special, and have a name or none."""
    from tokenizers import AddedToken

    tokenizer = make_tokenizer()
    tokens = ["<|start|>", "<|end|>", "<|message|>", "<|channel|>"]
    if named:
        tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    else:  # as gpt-oss is released
        tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    tokenizer.chat_template = template
    return tokenizer


def rendered(renderer: Renderer, *messages: dict[str, str]) -> tuple[str, str]:
    """Prompt and completion of the last answer as text, from their tokens."""
    item = renderer.render(conversation({"id": "a", "messages": list(messages)})[-1])
    return renderer.tokenizer.decode(item.prompt_ids), renderer.tokenizer.decode(item.completion_ids)


@pytest.mark.parametrize("template", [REFUSING, SILENT])
def test_without_a_system_role_its_text_stands_before_the_users(template: str) -> None:
    renderer = make_renderer(with_template(template))
    assert "no place for a system message" in renderer.template.remarks[0]
    prompt, completion = rendered(renderer, SYSTEM, USER, ANSWER)
    assert prompt == ("<|im_start|>user\nYou are a clerk.\n\nWhat does it cost?<|im_end|>\n<|im_start|>assistant\n")
    assert completion == "It costs 3.<|im_end|>"
    assert "You are" not in rendered(renderer, USER, ANSWER)[0]
    # Whoever loads the checkpoint has the same prompts.
    assert make_renderer(renderer.tokenizer).template.remarks == ()
    assert renderer.tokenizer.apply_chat_template([SYSTEM, USER], tokenize=False).startswith("<|im_start|>user\nYou")


def test_a_system_message_that_only_the_last_question_brings_stands_in_every_text() -> None:
    renderer = make_renderer(with_template(LATE))
    prompt, completion = rendered(renderer, SYSTEM, USER, ANSWER)
    assert prompt == "<|start|>You are a clerk.\n\nWhat does it cost?<|end|>"
    assert completion == " It costs 3.<|im_end|>"


@pytest.mark.parametrize("template", [LATE, LATE.replace("m['content'] + '<|im", "m['content'].strip() + '<|im")])
def test_a_space_before_answers_is_no_indentation(template: str) -> None:
    renderer = make_renderer(with_template(template))
    assert renderer.template.lead == " "
    code = {"role": "assistant", "content": "    y = 1\n    return y"}
    assert rendered(renderer, USER, code)[1] == "     y = 1\n    return y<|im_end|>"


def test_what_a_template_refuses_is_told_of_the_row() -> None:
    template = "{% if messages | length > 3 %}{{ raise_exception('too many turns') }}{% endif %}" + CHATML
    renderer = make_renderer(with_template(template))
    one, two = conversation({"id": "a", "messages": [USER, ANSWER, USER, ANSWER]})
    good, bad = renderer.render_together([one, two])
    assert isinstance(good, Rendered)
    assert str(bad) == "the chat template refuses it: too many turns"


def test_a_template_that_cant_be_read_is_named() -> None:
    with pytest.raises(UserError, match="chat template can't be read"):
        make_renderer(with_template("{% for m in messages %}"))


@pytest.mark.parametrize("fault", ["1 / 0", "messages + 1", "messages[0].content.x.y", "(messages | length)()"])
def test_whatever_a_template_fails_with_is_told_of_the_row(fault: str) -> None:
    template = f"{{% if messages | length > 3 %}}{{{{ {fault} }}}}{{% endif %}}{CHATML}"
    renderer = make_renderer(with_template(template))
    one, two = conversation({"id": "a", "messages": [USER, ANSWER, USER, ANSWER]})
    good, bad = renderer.render_together([one, two])
    assert isinstance(good, Rendered)
    assert str(bad).startswith("the chat template ")
    with pytest.raises(UserError, match="chat template"):
        make_renderer(with_template(f"{{{{ {fault} }}}}{CHATML}"))


def test_thoughts_are_trained_where_prompts_let_the_model_think() -> None:
    thought = {"role": "assistant", "content": "<think>3 or 4?</think>It costs 3."}
    quiet, loud = (make_renderer(with_template(THINKING), thinking) for thinking in (False, True))
    assert quiet.template.remarks == ("enable_thinking is off",)
    assert rendered(quiet, USER, ANSWER)[0].endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert rendered(quiet, USER, ANSWER)[1] == "It costs 3.<|im_end|>"
    assert rendered(loud, USER, thought) == (
        "<|im_start|>user\nWhat does it cost?<|im_end|>\n<|im_start|>assistant\n",
        "<think>\n3 or 4?\n</think>\n\nIt costs 3.<|im_end|>",
    )
    assert rendered(loud, USER, ANSWER)[1] == "<think>\n\n</think>\n\nIt costs 3.<|im_end|>"
    with pytest.raises(ValueError, match="enable_thinking=True"):
        rendered(quiet, USER, thought)
    for renderer, end in ((quiet, "</think>\n\n"), (loud, "assistant\n")):
        served = renderer.tokenizer.apply_chat_template([USER], tokenize=False, add_generation_prompt=True)
        assert served == rendered(renderer, USER, ANSWER)[0]
        assert served.endswith(end)


def test_indentation_stands_behind_an_empty_place_for_thoughts() -> None:
    renderer = make_renderer(with_template(THINKING), thinking=True)
    code = {"role": "assistant", "content": "    return 1"}
    assert rendered(renderer, USER, code)[1] == "<think>\n\n</think>\n\n    return 1<|im_end|>"


def test_thoughts_that_a_prompt_begins_are_trained_from_there() -> None:
    begun = CHATML.replace("assistant\n' }}", "assistant\n<think>\n' }}").replace(
        "{{ '<|im_start|>' + m['role'] + '\n' + m['content']",
        "{{ '<|im_start|>' + m['role'] + '\n' + m['content'].replace('<think>', '<think>\n')",
    )
    renderer = make_renderer(with_template(begun), thinking=True)
    assert renderer.template.has_switch is False
    thought = {"role": "assistant", "content": "<think>3 or 4?</think>It costs 3."}
    prompt, completion = rendered(renderer, USER, thought)
    assert prompt.endswith("<|im_start|>assistant\n<think>\n")
    assert completion == "3 or 4?</think>It costs 3.<|im_end|>"


def test_thoughts_that_a_template_leaves_out_are_no_surprise() -> None:
    renderer = make_renderer(with_template(CHATML.replace("m['content']", "m['content'].split('</think>')[-1]")))
    with pytest.raises(ValueError, match="leaves out what an answer holds up to </think>"):
        rendered(renderer, USER, {"role": "assistant", "content": "<think>3?</think>It costs 3."})


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("end", ["", "\n"])
def test_the_channel_of_an_answer_belongs_to_the_prompt(named: bool, end: str) -> None:
    renderer = make_renderer(with_template(CHANNELS + end, named))
    assert renderer.template.remarks == (
        "prompts end with <|channel|>final<|message|>, which it writes in front of every answer",
    )
    prompt, completion = rendered(renderer, USER, ANSWER)
    assert prompt == "<|start|>user<|message|>What does it cost?<|end|><|start|>assistant<|channel|>final<|message|>"
    assert completion == "It costs 3.<|im_end|>"
    assert renderer.tokenizer.apply_chat_template([USER], tokenize=False, add_generation_prompt=True) == prompt
    assert rendered(make_renderer(renderer.tokenizer), USER, ANSWER) == (prompt, completion)


def test_the_date_is_that_of_the_run() -> None:
    renderer = make_renderer(with_template(DATED), day=date(2026, 1, 31))
    assert rendered(renderer, USER, ANSWER)[0].startswith("Today is 31 Jan 2026. ")
    assert "31 Jan 2026" in renderer.template.remarks[0]
    assert date.today().strftime("%d %b %Y") in rendered(make_renderer(with_template(DATED)), USER, ANSWER)[0]
    assert "2026" not in renderer.tokenizer.chat_template  # who serves it asks on another day
