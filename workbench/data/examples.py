"""Examples: checked, deduplicated, in splits."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.data.notes import note
from workbench.data.shapes import turns_of
from workbench.data.turns import REASONING, Message, as_text, beyond_text, trimmed

# In the place of labels, where a question has none of them.
NO_LABEL = "(none)"

__all__ = ["Example", "MakeExamples", "Message", "choice", "conversation", "label_text", "row_id"]


@dataclass(frozen=True, kw_only=True)
class Example:
    """What the model is asked and what it should answer.

    Attributes:
        id: unique in its split; stands in `predictions.jsonl`.
        prompt: the conversation up to the answer, the last message being the user's.
        completion: the answer; the one that is trained on.
        references: further right answers, beside which a written one is scored, too.
        groups: attributes by which scores are broken down, such as `{"language": "en"}`.
        source: what it is a part of, such as the conversation of which it is a turn: examples of one source are
            not independent, and are resampled together. Empty: it stands alone.
        choices: what the model chooses from by likelihood, the completion among them; without any, it writes.
        task: of a recipe with several questions, which one this is: likelihoods are calibrated for each.
        turn: the answer as a message, where it is more than a text: with calls of tools, or with thoughts. The chat
            template says then what is trained on, and `completion` only tells such examples apart.
        labels: those of the choices that are right, of a question that may have several or none; None of any other, and
            where they aren't known.
    """

    id: str
    prompt: tuple[Message, ...]
    completion: str
    groups: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    choices: tuple[str, ...] = ()
    task: str = ""
    references: tuple[str, ...] = ()
    turn: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None

    @property
    def question(self) -> str:
        """The prompt's messages but the system's, folded to one line: what is read by baselines that count words."""
        return " ".join(" ".join(m["content"] for m in self.prompt if m["role"] != "system").lower().split())

    @property
    def folded_prompt(self) -> str:
        """All messages of the prompt, without upper case and each on one line: what tells examples apart.

        The system's is among them, since the document that is asked about may stand there.
        """
        return "\n".join(_folded(message) for message in self.prompt)

    def to_json(self) -> str:
        """All of it in one line, for `from_json`."""
        return json.dumps(vars(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> "Example":
        """The example that `to_json` gave the line of."""
        values = json.loads(line)
        tuples = {name: tuple(values[name]) for name in ("prompt", "choices", "references")}
        labels = values.get("labels")
        return cls(**{**values, **tuples, "labels": None if labels is None else tuple(labels)})


def _folded(message: Message) -> str:
    text, more = " ".join(message["content"].lower().split()), beyond_text(message)
    return f"{text} {json.dumps(more, sort_keys=True, default=str)}" if more else text


MakeExamples = Callable[[Mapping[str, Any]], Iterable[Example]]


def conversation(
    row: Mapping[str, Any],
    system: str | None = None,
    groups: Iterable[str] = (),
    ground: Callable[[Sequence[Message]], str] | None = None,
) -> list[Example]:
    """Make one example of each answer of a row that holds a conversation.

    Args:
        row: with `id` and `messages`, a list of `{"role", "content"}`: an optional system message, then user
            and assistant in turn; or in another shape of `workbench.data.shapes`, such as ShareGPT's, Alpaca's, or
            `prompt` and `completion`. If the user has the last word, the last example has no completion. Answers of
            weight 0 are read with what follows, and are no examples.
        system: the system message, where the row has none.
        groups: columns of the row that become the examples' groups.
        ground: messages up to a question -> what the answer can be drawn from, such as passages that were found;
            stands in the system message of that turn.

    Returns:
        Examples with the row's id, `#2` and so on added for later turns.

    Raises:
        ValueError: naming every problem of the row.
    """
    turns, tools, problems = turns_of(row)
    name = row_id(row, problems)
    problems += _missing_groups(row, groups)
    if problems:
        raise ValueError("; ".join(problems))
    learnt = [turn.is_learnt for turn in turns]
    if any(thought in turn.message for turn in turns[:-1] for thought in REASONING):
        note("conversations with thoughts before the last answer: chat templates may leave those out of prompts")
    said: list[Message] = [{**message, "content": trimmed(message["content"])} for message, _ in turns]
    if system and said[0]["role"] != "system":
        said, learnt = [Message(role="system", content=system), *said], [True, *learnt]
    asked = [position for position, message in enumerate(said, 1) if message["role"] in ("user", "tool")]
    asked = [position for position in asked if position == len(said) or said[position]["role"] == "assistant"]
    return [
        _answered(
            said[position] if position < len(said) else Message(role="assistant", content=""),
            id=name if number == 1 else f"{name}#{number}",
            prompt=_with_tools(_grounded(said[:position], ground), tools),
            groups={column: str(row[column]) for column in groups},
            source=name,
        )
        for number, position in enumerate(asked, 1)
        if position == len(said) or learnt[position]
    ]


def _answered(answer: Message, **values: Any) -> Example:
    """An example with its answer, which may be more than a text."""
    more = beyond_text(answer)
    return Example(completion=as_text(answer) if more else answer["content"], turn=answer if more else {}, **values)


def _with_tools(prompt: tuple[Message, ...], tools: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """The prompt, the tools that may be called at its first message."""
    return ({**prompt[0], "tools": list(tools)}, *prompt[1:]) if tools else prompt


def row_id(row: Mapping[str, Any], problems: list[str]) -> str:
    """A row's id as a text; one that has none gets its place when it is read from a file."""
    found = row.get("id")
    if found is None or found == "":
        problems.append("no id")
    if isinstance(found, float) and not math.isfinite(found):
        problems.append(f"id {found} is no number")
    return str(found)


def label_text(value: Any) -> str:
    """A label as the model writes it: integers and truth values are labels, too, as JSON has them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():  # an integer's column with gaps
        return str(int(value))
    return str(value)


def _missing_groups(row: Mapping[str, Any], groups: Iterable[str]) -> list[str]:
    return [f"no {column!r}" for column in groups if row.get(column) in (None, "")]


def _grounded(messages: Sequence[Message], ground: Callable[[Sequence[Message]], str] | None) -> tuple[Message, ...]:
    """The messages, with what `ground` finds for them behind the system message, or as one."""
    found = ground(messages) if ground else ""
    if not found:
        return tuple(messages)
    first, rest = messages[0], messages[1:]
    if first["role"] != "system":
        first, rest = Message(role="system", content=""), messages
    return ({**first, "content": f"{first['content']}\n{found}".strip()}, *rest)


def choice(
    row: Mapping[str, Any],
    question: str,
    choices: Iterable[Any],
    answer: Any = None,
    *,
    system: str | None = None,
    groups: Iterable[str] = (),
    task: str = "",
) -> Example:
    """Make an example that is answered by choosing, such as a text and its class.

    Args:
        row: with `id`.
        question: what the user says.
        choices: two or more, all different; integers count by their digits.
        answer: the right one; of a question with several right choices at once (or none) all of them, as a list, tuple
            or set. None where it isn't known, which will do for asking but not for training or scoring.
        system: the system message.
        groups: columns of the row that become the example's groups.
        task: which of a recipe's questions it is; stands behind the row's id.

    Raises:
        ValueError: naming every problem of the row.
    """
    choices = tuple(map(label_text, choices))
    several = isinstance(answer, list | tuple | set | frozenset)
    given = () if answer is None else tuple(map(label_text, answer if several else (answer,)))
    problems: list[str] = []
    name = row_id(row, problems)
    problems += _missing_groups(row, groups)
    if not isinstance(question, str) or not question.strip():
        problems.append("nothing is asked" if isinstance(question, str) else f"{question!r} is no text")
    if len(set(choices)) != len(choices) or len(choices) < 2:
        problems.append(f"choices must be two or more, all different, not {', '.join(choices)}")
    problems += [f"{one!r} is none of {', '.join(choices)}" for one in given if one not in choices]
    labels = tuple(one for one in choices if one in given) if several else None
    if problems:
        raise ValueError("; ".join(problems))
    user = Message(role="user", content=question.strip())
    return Example(
        id=f"{name}#{task}" if task else name,
        prompt=(Message(role="system", content=system), user) if system else (user,),
        completion=together(labels) if labels is not None else "".join(given),
        groups={column: str(row[column]) for column in groups},
        source=name,
        choices=choices,
        task=task,
        labels=labels,
    )


def together(labels: Sequence[str]) -> str:
    """Several right choices as one text, for those who read it."""
    return ", ".join(labels) or NO_LABEL
