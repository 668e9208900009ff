"""The messages of a conversation as they come: text in parts, calls of tools, reasoning, answers not to be learnt.

What a message holds beside role and text goes to the chat template as it is; the renderer refuses it where the template
does not write it. Nothing is dropped without a word: what is not used is noted, see `workbench.data.notes`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NotRequired, TypedDict

from workbench.data.notes import note

ROLES = ("system", "user", "assistant")
# Names under which an assistant's thoughts come; templates know one or the other.
REASONING = ("reasoning_content", "reasoning", "thinking")
# Kinds of a message's parts that are text.
TEXT_PARTS = ("text", "input_text", "output_text")
OF_TOOLS = ("tool_call_id", "name")
# In front of a text.
EMPTY_LINES = re.compile(r"\A(?:[^\S\n]*\n)+")
# What can't be put into words.
UNREADABLE = ("function_call", "audio", "images", "image", "refusal")


class Message(TypedDict):
    """One turn of a conversation.

    Beside role and text it may hold what chat templates know: an assistant's `tool_calls` and thoughts, a tool's `name`
    and `tool_call_id`; and the first message the `tools` that may be called.
    """

    role: str
    content: str
    tool_calls: NotRequired[Sequence[Mapping[str, Any]]]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]
    reasoning_content: NotRequired[str]
    reasoning: NotRequired[str]
    thinking: NotRequired[str]
    tools: NotRequired[Sequence[Mapping[str, Any]]]


def trimmed(text: str) -> str:
    """A text without empty lines around it and spaces at its end, with the indentation of its first line.

    A single space in front is none: files and tokenizers put one before a text that has none.

    >>> trimmed("\\n    return 1\\n"), trimmed(" yes ")
    ('    return 1', 'yes')
    """
    kept = EMPTY_LINES.sub("", text).rstrip()
    return kept[1:] if kept[:1] == " " and kept[1:2] != " " else kept


class Turn(NamedTuple):
    """A message, and whether it is one to learn from."""

    message: Message
    is_learnt: bool


def beyond_text(message: Mapping[str, Any]) -> dict[str, Any]:
    """What a message holds beside role and text."""
    return {name: value for name, value in message.items() if name not in ("role", "content")}


def read_turns(messages: Any) -> tuple[list[Turn], list[str]]:
    """Read a list of messages in OpenAI's form.

    Returns:
        The turns, and everything that is wrong with them; where something is, the turns are not all there.
    """
    if not isinstance(messages, list) or not messages:
        return [], ["no messages"]
    turns: list[Turn] = []
    problems: list[str] = []
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping):
            return [], [f"message {number} is not an object with role and content"]
        found = _turn(message, f"message {number}", problems)
        if found is None:
            return [], problems
        turns.append(found)
    if not problems:
        problems += _order_problems([turn.message for turn in turns])
    return turns, problems


def _turn(message: Mapping[str, Any], name: str, problems: list[str]) -> Turn | None:
    role, calls = message.get("role"), message.get("tool_calls")
    content = message.get("content")
    if isinstance(content, list):
        content = _joined(content, name, problems)
    elif content is None and calls:
        content = ""
    if not isinstance(content, str):
        problems.append(f"{name} is not an object with role and content")
        return None
    if role not in (*ROLES, "tool"):
        problems.append(f"{name} has role {role!r}, known: {', '.join(ROLES)}, tool")
    if not content.strip() and not calls:
        problems.append(f"{name} is empty")
    if len(message) == 2:
        return Turn({"role": str(role), "content": content}, True)
    weight = message.get("weight")
    if weight not in (None, 0, 1):
        problems.append(f"{name} has weight {weight!r}: an answer is learnt (1) or not (0)")
    if weight == 0 and role == "assistant":
        note("answers not to be learnt (weight 0, or within a prompt): neither trained nor scored")
    more: Any = _beyond(message, name, problems)
    return Turn({"role": str(role), "content": content, **more}, weight != 0)


def _beyond(message: Mapping[str, Any], name: str, problems: list[str]) -> dict[str, Any]:
    """What a message holds beside role and text, as far as chat templates know it."""
    found: dict[str, Any] = {}
    role = message.get("role")
    for key, value in message.items():
        if value is None or value in ("", []) or key in ("role", "content", "weight"):
            continue
        if key in UNREADABLE:
            problems.append(f"{name} has {key!r}, which can't be read")
        elif key == "tool_calls" and role == "assistant":
            found[key] = _calls(value, name, problems)
        elif (key in REASONING and role == "assistant") or (key in OF_TOOLS and role == "tool"):
            found[key] = value
        else:
            note(f"{key!r} of a message is not used")
    return found


def _joined(parts: Sequence[Any], name: str, problems: list[str]) -> str:
    texts = []
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
        text = part.get("text") if isinstance(part, Mapping) and kind in TEXT_PARTS else part
        if isinstance(text, str):
            texts.append(text)
        else:
            problems.append(f"{name} has a part of type {kind!r}: only text can be read")
    note("messages in parts of text, joined by line ends")
    return "\n".join(texts)


def _calls(calls: Any, name: str, problems: list[str]) -> list[dict[str, Any]]:
    """Calls of tools, their arguments as an object: OpenAI writes them as JSON in a text, templates want them open."""
    found = []
    for call in calls if isinstance(calls, list) else [None]:
        function: Any = call.get("function", call) if isinstance(call, Mapping) else None
        arguments = function.get("arguments", {}) if isinstance(function, Mapping) else None
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except json.JSONDecodeError:
                arguments = None
        called_name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(arguments, Mapping) or not isinstance(called_name, str):
            problems.append(f"{name} has a tool call without a name or with arguments that are no JSON object")
            continue
        identity = {"id": call["id"]} if isinstance(call, Mapping) and call.get("id") else {}
        called = {"name": called_name, "arguments": dict(arguments)}
        found.append({**identity, "type": "function", "function": called})
    return found


def _order_problems(messages: Sequence[Message]) -> list[str]:
    """User and assistant must take turns; results of tools stand between a call and the next answer."""
    roles = [message["role"] for message in messages]
    before = "assistant"
    calls = False
    for message in messages[1:] if roles[0] == "system" else messages:
        role = message["role"]
        follows = {"user": before == "assistant" and not calls, "assistant": before in ("user", "tool")}
        follows["tool"] = before == "tool" or (before == "assistant" and calls)
        if not follows.get(role, False):
            break
        before, calls = role, bool(message.get("tool_calls"))
    else:
        if "user" in roles:
            return []
    return [f"wrong role order: {', '.join(roles)}; user and assistant must take turns"]


def read_tools(given: Any, problems: list[str]) -> Sequence[Mapping[str, Any]]:
    """The tools that may be called, of a list or of JSON in a text."""
    if isinstance(given, str):
        try:
            given = json.loads(given or "[]")
        except json.JSONDecodeError:
            given = given or None
    if not given:
        return ()
    if not isinstance(given, list) or not all(isinstance(tool, Mapping) for tool in given):
        problems.append("tools must be a list of objects")
        return ()
    return [dict(tool) for tool in given]


def as_text(message: Message) -> str:
    """What an answer says, in one text: its thoughts, its words, its calls as JSON."""
    thoughts = [str(message[name]) for name in REASONING if name in message]  # type: ignore[literal-required]
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls", ())]
    return "\n".join(text for text in (*thoughts, message["content"], *calls) if text)
