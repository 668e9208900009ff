"""Chat templates are programs of whoever made the checkpoint: they may neither run for ever nor take all memory."""

import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tiny import make_tokenizer
from workbench.data.render import make_renderer
from workbench.data.sandbox import HAS_TIMER, TemplateSandbox
from workbench.errors import UserError

ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
HUGE = "{{ ('a' * 1000000000) | length }}"
ONE = {"messages": [{"role": "user", "content": "Hello"}], "tools": None, "add_generation_prompt": True}


@pytest.fixture(scope="module")
def bounded() -> Iterator[TemplateSandbox]:
    sandbox = TemplateSandbox(seconds=0.5, room=2**28)
    yield sandbox
    sandbox.close()


@pytest.mark.parametrize(
    "template",
    [pytest.param(ENDLESS, id="runs for ever"), pytest.param("{{ (7 ** 99999999) % 10 }}", id="one endless sum")],
)
@pytest.mark.skipif(not HAS_TIMER, reason="the clock is watched from outside, for a minute")
def test_a_template_without_end_is_stopped_and_the_next_is_rendered(template: str, bounded: TemplateSandbox) -> None:
    with pytest.raises(UserError, match=r"chat template ran for more than 0\.5 seconds on one conversation and was"):
        bounded.render(template, {}, [ONE])
    assert bounded.render("{{ messages[0].content }}{{ bos }}", {"bos": "<s>"}, [ONE]) == [{"text": "Hello<s>"}]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds a process's memory")
def test_a_template_that_takes_all_memory_fails_where_it_does_so(bounded: TemplateSandbox) -> None:
    template = "{% if messages[0].content == 'Hello' %}" + HUGE + "{% else %}fine{% endif %}"
    other = {**ONE, "messages": [{"role": "user", "content": "Bye"}]}
    answers = bounded.render(template, {}, [other, ONE, other])
    assert answers == [{"text": "fine"}, {"failed": "it needs too much memory"}, {"text": "fine"}]


def test_many_long_conversations_are_no_fault_of_the_template(bounded: TemplateSandbox) -> None:
    many = [{**ONE, "messages": [{"role": "user", "content": "\u4f60" * 2000}]}] * 4000
    answers = bounded.render("{{ messages[0].content }}", {}, many)
    assert len(answers) == 4000 and all(answer == {"text": "\u4f60" * 2000} for answer in answers)


def test_a_process_that_died_while_nobody_asked_is_begun_anew(bounded: TemplateSandbox) -> None:
    assert bounded.render("{{ 1 }}", {}, [ONE]) == [{"text": "1"}]
    process = bounded._script._process
    assert process is not None
    process.send_signal(signal.SIGINT)  # Ctrl-C reaches it, too, and is not for it
    assert bounded.render("{{ 2 }}", {}, [ONE]) == [{"text": "2"}]
    process.kill()
    process.wait()
    assert bounded.render("{{ 3 }}", {}, [ONE]) == [{"text": "3"}]


def test_a_template_that_writes_without_end_fails(bounded: TemplateSandbox) -> None:
    (answer,) = bounded.render("{{ 'a' * 20000000 }}", {}, [ONE])
    assert answer == {"failed": "it writes 20,000,000 characters"}


def test_the_template_has_no_way_to_the_machine(bounded: TemplateSandbox) -> None:
    for template in ("{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ cycler.__init__.__globals__ }}"):
        (answer,) = bounded.render(template, {}, [ONE])
        assert "refused" in answer, template


def test_what_only_one_conversation_sets_off_is_a_line(
    bounded: TemplateSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer: Any = make_tokenizer()
    renderer = make_renderer(tokenizer)
    tokenizer.chat_template = "{% if messages[0].content == 'Hello' %}{{ 1 / 0 }}{% endif %}" + tokenizer.chat_template
    monkeypatch.setattr("workbench.data.template.sandbox", lambda: bounded)
    good, bad = renderer.template.texts([([{"role": "user", "content": text}], True) for text in ("Bye", "Hello")])
    assert isinstance(good, str) and "Bye" in good
    assert str(bad) == "the chat template fails: ZeroDivisionError: division by zero"
