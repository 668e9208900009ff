"""Chat templates: what one does with a conversation, found out by trying it, and what a job makes it do.

Templates differ in what they know. Some refuse a system message, some let the model think aloud unless they are told
not to, some name a channel in front of the answer, some write the date. What a job decides of that is decided once, and
written into the template: whoever loads the exported checkpoint gets the prompts that it was trained with.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import jinja2
from jinja2 import meta

from workbench.data.sandbox import sandbox
from workbench.data.turns import REASONING, Message
from workbench.errors import UserError

# For checkpoints that bring no chat template, such as GPT-2: roles in words, the end-of-text token after each turn.
# The prompt ends in 'Assistant:' with no space, since byte-level vocabularies keep a space with the word behind it.
FALLBACK_TEMPLATE = (
    "{% if FIRST %}{{ bos_token }}{% endif %}"
    "{% for message in messages %}"
    "{{ message['role'].capitalize() + ': ' + message['content'] + eos_token + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
# Names under which templates ask whether the model is to think aloud before it answers.
THINKING = ("enable_thinking", "thinking")
END_OF_THOUGHTS = "</think>"
# The function by which templates ask for the date.
DATE = "strftime_now"
DATE_CODES = ("%Y", "%y", "%m", "%B", "%b", "%d", "%e", "%A", "%a", "%j", "%H", "%M", "%S", "%F")
# In front of a template that refuses or leaves out a system message.
SYSTEM_TO_USER = (
    "{%- if messages | length > 1 and messages[0]['role'] == 'system' %}"
    "{%- set messages = [dict(messages[1], content=messages[0]['content'] + '\n\n' + messages[1]['content'])]"
    " + messages[2:] %}{%- endif %}"
)
# Marks around what is trained on, which transformers knows and Jinja does not.
GENERATION = re.compile(r"{%-?\s*(?:end)?generation\s*-?%}")

PROBE_SYSTEM: Message = {"role": "system", "content": "Rule"}
PROBE_PROMPT: tuple[Message, ...] = ({"role": "user", "content": "Question"},)
PROBE_ANSWER: Message = {"role": "assistant", "content": "Answer"}


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """The chat template of a tokenizer, as a job uses it.

    Attributes:
        tokenizer: of transformers; its template already says whether the model thinks aloud.
        thinking: whether prompts let the model think aloud before it answers.
        has_switch: whether it asks if the model is to think aloud.
        lead: what it writes between a prompt and an answer, such as a space; "" for nothing.
        day: what a template is told that writes the date; None for the day on which it is asked.
        remarks: what a person should know of it, in sentences.
    """

    tokenizer: Any
    thinking: bool = False
    has_switch: bool = False
    lead: str = ""
    day: date | None = None
    remarks: tuple[str, ...] = ()

    def text(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        """What the template makes of messages.

        Raises:
            ValueError: it refuses them.
            UserError: it was stopped, since it would not end.
        """
        (text,) = self.texts([(messages, add_generation_prompt)])
        if isinstance(text, ValueError):
            raise text
        return text

    def texts(self, asked: Sequence[tuple[Sequence[Message], bool]]) -> list[str | ValueError]:
        """What it makes of many: of each the text, or why there is none.

        Args:
            asked: messages, and whether the text ends where the assistant's answer begins.

        Raises:
            UserError: it was stopped, since it would not end.
        """
        template = self.tokenizer.chat_template
        if self.day is not None:
            template = _dated(template, self.day)
        given = [for_template(messages, opened) for messages, opened in asked]
        return [
            answer["text"] if "text" in answer else ValueError(_reason(answer))
            for answer in sandbox().render(template, self.tokenizer.special_tokens_map, given)
        ]


def for_template(messages: Sequence[Message], add_generation_prompt: bool) -> dict[str, Any]:
    """What the template is given: tools beside the messages, and no fields that are null, which many don't expect."""
    named = [{name: value for name, value in message.items() if value is not None} for message in messages]
    tools = named[0].pop("tools", None) or None
    return {"messages": named, "tools": tools, "add_generation_prompt": add_generation_prompt}


def _reason(answer: Mapping[str, str]) -> str:
    if "refused" in answer:
        return f"the chat template refuses it: {answer['refused']}"
    return f"the chat template fails: {answer['failed']}"


def find_template(tokenizer: Any, thinking: bool, day: date | None) -> ChatTemplate:
    """Try the template of `tokenizer`, and change it to what the job needs of it; both stay with the tokenizer.

    Args:
        tokenizer: gets the fallback template if it has none.
        thinking: whether prompts let the model think aloud before it answers, where the template has a switch for it.
        day: see `ChatTemplate`.

    Raises:
        UserError: there is neither a template nor what could end a turn, or the template fails.
    """
    remarks: list[str] = []
    if not tokenizer.chat_template:
        if tokenizer.eos_token is None:
            raise UserError("the tokenizer has neither a chat template nor an end-of-sequence token")
        # The template writes every special token, the first one too where this tokenizer adds one.
        adds_first = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
        tokenizer.chat_template = FALLBACK_TEMPLATE.replace("FIRST", "true" if adds_first else "false")
        remarks.append("the checkpoint has none: 'User: ...' and 'Assistant: ...', the end-of-text token behind each")
    if isinstance(tokenizer.chat_template, dict):
        names = ", ".join(tokenizer.chat_template)
        raise UserError(f"the tokenizer has several chat templates ({names}): leave one in a local copy")
    asked = _variables(tokenizer.chat_template)
    for switch in THINKING:
        if switch in asked:
            _set(tokenizer, switch, thinking)
            remarks.append(f"{switch} is {'on: the model thinks aloud before it answers' if thinking else 'off'}")
    if not _holds_system(tokenizer):
        tokenizer.chat_template = SYSTEM_TO_USER + tokenizer.chat_template
        if _holds_system(tokenizer):
            remarks.append("it has no place for a system message, which stands in front of the first user message")
    dated = day if DATE in asked else None
    if dated is not None:
        remarks.append(f"it writes the date, which stays {dated:%d %b %Y} in all of this run")
    template = ChatTemplate(tokenizer=tokenizer, thinking=thinking, has_switch=bool(asked & set(THINKING)), day=dated)
    try:
        if not thinking and _is_opening(opening := _lead(template), tokenizer):
            # Jinja drops the line break at the end of a template.
            written = "{% if add_generation_prompt %}{{ " + repr(opening) + " }}{% endif %}"
            tokenizer.chat_template = tokenizer.chat_template.removesuffix("\n") + written
            remarks.append(f"prompts end with {opening}, which it writes in front of every answer")
        return replace(template, lead=_lead(template), remarks=tuple(remarks))
    except ValueError as error:
        raise UserError(f"chat template: {error}") from error


def has_thoughts(completion: str, turn: Mapping[str, Any]) -> bool:
    """Whether an answer holds what the model thought before it."""
    return END_OF_THOUGHTS in completion or any(name in turn for name in REASONING)


def _variables(template: str) -> set[str]:
    """The names that a template is to be given.

    Raises:
        UserError: it is no template.
    """
    try:
        tree = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(GENERATION.sub("", template))
    except (jinja2.TemplateError, RecursionError) as error:
        raise UserError(f"the tokenizer's chat template can't be read: {error}") from error
    return meta.find_undeclared_variables(tree)


def _dated(template: str, day: date) -> str:
    """The template with a function for the date in front that always tells `day`; the exported one tells its own."""
    told = "".join(f" | replace({code!r}, {day.strftime(code)!r})" for code in DATE_CODES)
    return f"{{%- macro {DATE}(format) -%}}{{{{ format{told} }}}}{{%- endmacro -%}}{template}"


def _set(tokenizer: Any, switch: str, value: bool) -> None:
    said = f"{{%- set {switch} = {str(value).lower()} %}}"
    if not tokenizer.chat_template.startswith(said):
        tokenizer.chat_template = said + tokenizer.chat_template


def _holds_system(tokenizer: Any) -> bool:
    """Whether a system message stands in the text, whoever spoke last: some write it with the last question only."""
    template = ChatTemplate(tokenizer=tokenizer)
    try:
        texts = [template.text([PROBE_SYSTEM, *PROBE_PROMPT, *more]) for more in ((), (PROBE_ANSWER,))]
    except ValueError:
        return False
    return all(PROBE_SYSTEM["content"] in text for text in texts)


def _lead(template: ChatTemplate) -> str:
    """What stands between a prompt and its answer."""
    prompt = template.text(PROBE_PROMPT, add_generation_prompt=True)
    whole = template.text([*PROBE_PROMPT, PROBE_ANSWER])
    return whole[len(prompt) :].partition(PROBE_ANSWER["content"])[0] if whole.startswith(prompt) else ""


def _is_opening(lead: str, tokenizer: Any) -> bool:
    """Whether it is control tokens, with words between them."""
    ids = tokenizer(lead, add_special_tokens=False)["input_ids"]
    special = special_ids(tokenizer)
    return bool(ids) and ids[0] in special and ids[-1] in special


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of all special tokens, also of those that have no name."""
    added = {token for token, known in tokenizer.added_tokens_decoder.items() if known.special}
    return {*tokenizer.all_special_ids, *added}
