"""The shapes in which people have conversations, told by the names of columns, and how each becomes messages."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from workbench.data.notes import note_shape
from workbench.data.turns import Turn, read_tools, read_turns

Columns = Mapping[str, Any]
SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "model": "assistant", "bing": "assistant", "bard": "assistant", "system": "system", "tool": "tool",
    "observation": "tool", "function_response": "tool",
}  # fmt: skip
CALLS = ("function_call", "tool_call")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Rows of one form.

    Attributes:
        name: as people call it.
        columns: that tell it; all of them are there.
        further: that may be there.
        messages: values by these names -> messages in OpenAI's form; raises ValueError for a row it can't read.
    """

    name: str
    columns: tuple[str, ...]
    further: tuple[str, ...] = ()
    messages: Callable[[Columns], Any]


def find_shape(columns: Iterable[str]) -> tuple[Shape, dict[str, str]] | None:
    """The shape that rows with such columns have, and what its columns are called here; None if it is none of ours.

    Upper case and spaces around names make no difference.
    """
    return _found(tuple(columns))


@lru_cache(maxsize=256)
def _found(columns: tuple[str, ...]) -> tuple[Shape, dict[str, str]] | None:
    here = {str(name).strip().casefold(): name for name in reversed(columns)}
    for shape in SHAPES:
        if all(name in here for name in shape.columns):
            return shape, {name: here[name] for name in (*shape.columns, *shape.further) if name in here}
    return None


@lru_cache(maxsize=256)
def _in_words(columns: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """`Alpaca: instruction, input and output`, and the columns as they are called here."""
    found = _found(columns)
    assert found is not None
    shape, names = found
    *most, last = names.values()
    return f"{shape.name}: {', '.join(most)}{' and ' * bool(most)}{last}", tuple(names.values())


def turns_of(row: Mapping[str, Any]) -> tuple[Sequence[Turn], Sequence[Mapping[str, Any]], list[str]]:
    """The turns of a row, the tools that its assistant may call, and everything that is wrong with the row."""
    columns = tuple(row)
    found = _found(columns)
    if found is None:
        return (), (), [f"no messages, and no other shape that is known; columns: {', '.join(map(str, row))}"]
    shape, names = found
    note_shape(*_in_words(columns))
    problems: list[str] = []
    values = {name: row[here] for name, here in names.items()}
    try:
        messages = shape.messages(values)
    except ValueError as error:
        return (), (), [str(error)]
    turns, wrong = read_turns(messages)
    tools = read_tools(values["tools"], problems) if "tools" in values else ()
    return turns, tools, wrong + problems


def text_of(value: Any, name: str) -> str:
    """A column that is a text; numbers are, as a spreadsheet has them.

    Raises:
        ValueError: it is empty, or something else.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ValueError(f"no {name!r}")
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{name!r} must be a text, not {type(value).__name__}")


def _is_empty(value: Any) -> bool:
    return value is None or value in ("", [])


def _messages(values: Columns) -> Any:
    if not _is_empty(values.get("functions")):
        raise ValueError("'functions' is the former form of 'tools', which can't be read")
    messages = values["messages"]
    system = values.get("system")
    if not _is_empty(system) and isinstance(messages, list):
        return [{"role": "system", "content": text_of(system, "system")}, *messages]
    return messages


def _sharegpt(values: Columns) -> Any:
    """Of `{"from": ..., "value": ...}`; such turns in OpenAI's form are left as they are."""
    given = values["conversations"] if "conversations" in values else values["conversation"]
    if not isinstance(given, list):
        return given
    found: list[Any] = []
    if not _is_empty(values.get("system")):
        found.append({"role": "system", "content": text_of(values["system"], "system")})
    for number, turn in enumerate(given, 1):
        if not isinstance(turn, Mapping) or "from" not in turn:
            found.append(turn)
            continue
        rest = {name: value for name, value in turn.items() if name not in ("from", "value")}
        speaker, said = turn["from"], turn.get("value")
        if speaker in CALLS:
            found.append({"role": "assistant", "content": None, "tool_calls": _called(said, number), **rest})
        elif speaker in SHAREGPT_ROLES:
            found.append({"role": SHAREGPT_ROLES[speaker], "content": said, **rest})
        else:
            raise ValueError(f"turn {number} is from {speaker!r}, known: {', '.join((*SHAREGPT_ROLES, *CALLS))}")
    return found


def _called(said: Any, number: int) -> list[Any]:
    try:
        calls = json.loads(said)
    except (TypeError, json.JSONDecodeError):
        raise ValueError(f"turn {number} is a call of a function, and no JSON") from None
    return calls if isinstance(calls, list) else [calls]


def _alpaca(values: Columns) -> Any:
    """Instruction and input are one question; a history stands before it."""
    asked = text_of(values["instruction"], "instruction")
    more = values.get("input", values.get("context"))
    if not _is_empty(more):
        asked = f"{asked}\n\n{text_of(more, 'input')}"
    answer = "output" if "output" in values else "response"
    history = [] if _is_empty(values.get("history")) else values["history"]
    if not isinstance(history, list) or any(not isinstance(pair, list | tuple) or len(pair) != 2 for pair in history):
        raise ValueError("'history' must be a list of pairs of question and answer")
    pairs = [*history, (asked, text_of(values[answer], answer))]
    system = [] if _is_empty(values.get("system")) else [("system", text_of(values["system"], "system"))]
    said = [*system, *((role, text) for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True))]
    return [{"role": role, "content": text} for role, text in said]


def _pair(asked: str, answered: str) -> Shape:
    def messages(values: Columns) -> Any:
        question, answer = values[asked], values[answered]
        if isinstance(question, list) and isinstance(answer, list):  # as TRL has conversations
            return [*({**turn, "weight": 0} if _is_answer(turn) else turn for turn in question), *answer]
        system = values.get("system")
        first = [] if _is_empty(system) else [{"role": "system", "content": text_of(system, "system")}]
        question = {"role": "user", "content": text_of(question, asked)}
        return [*first, question, {"role": "assistant", "content": text_of(answer, answered)}]

    name = "prompt and completion" if asked == "prompt" else "question and answer"
    return Shape(name=name, columns=(asked, answered), further=("system", "tools"), messages=messages)


def _is_answer(turn: Any) -> bool:
    return isinstance(turn, Mapping) and turn.get("role") == "assistant" and "weight" not in turn


SHAPES = (
    Shape(name="messages", columns=("messages",), further=("system", "tools", "functions"), messages=_messages),
    Shape(name="ShareGPT", columns=("conversations",), further=("system", "tools"), messages=_sharegpt),
    Shape(name="ShareGPT", columns=("conversation",), further=("system", "tools"), messages=_sharegpt),
    Shape(name="Alpaca", columns=("instruction", "output"), further=("input", "system", "history"), messages=_alpaca),
    Shape(name="Dolly", columns=("instruction", "response"), further=("context", "system"), messages=_alpaca),
    *(
        _pair(asked, answered)
        for asked in ("prompt", "question", "query", "input")
        for answered in ("completion", "response", "answer", "output")
    ),
)
