"""Whether a chat template wrote what a message holds beside its text: calls of tools, their results, thoughts."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from workbench.data.turns import REASONING

ADVICE = "take a checkpoint whose template does, or leave such rows out"


def unwritten(messages: Sequence[Mapping[str, Any]], text: str) -> str | None:
    """What of the messages does not stand in the template's text, in words; None if all does.

    The thoughts of earlier answers are not looked for: templates leave them out, and models are made for that.
    """
    flat = "".join(text.split())
    for tool in messages[0].get("tools", ()):
        name = str(tool.get("function", tool).get("name"))
        if not _stands(name, flat):
            return f"the chat template does not write the tools that may be called ({name}): {ADVICE}"
    for message in messages:
        for call in message.get("tool_calls", ()):
            function = call["function"]
            if missing := [
                leaf for leaf in (function["name"], *_leaves(function["arguments"])) if not _stands(leaf, flat)
            ]:
                told = f" ({missing[0]} is missing)" if missing[0] != function["name"] else ""
                return f"the chat template does not write calls of tools: {function['name']}{told}; {ADVICE}"
        if message["role"] == "tool" and not _stands(message["content"], flat):
            return f"the chat template does not write what a tool gave: {message['content'][:40]!r}; {ADVICE}"
    return None


def unwritten_answer(answer: Mapping[str, Any], text: str) -> str | None:
    """The same of an answer that is more than a text."""
    flat = "".join(text.split())
    for name in REASONING:
        if name in answer and not _stands(str(answer[name]), flat):
            return f"the chat template does not write an answer's thoughts ({name}): {ADVICE}"
    if not _stands(answer["content"], flat):
        return f"the chat template does not write the text beside what else an answer holds; {ADVICE}"
    return unwritten([answer], text)


def _leaves(value: Any) -> Iterator[str]:
    """Names and values of arguments; truth values and nothing are written in several ways."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield str(name)
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield str(value)


def _stands(wanted: str, flat: str) -> bool:
    """Whether a text stands in another one, as it is or as JSON writes it; spaces don't count."""
    ways = (wanted, json.dumps(wanted)[1:-1], json.dumps(wanted, ensure_ascii=False)[1:-1])
    return any("".join(way.split()) in flat for way in ways)
