"""Examples: checked, deduplicated, in splits."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

ROLES = ("system", "user", "assistant")
# In the place of labels, where a question has none of them.
NO_LABEL = "(none)"


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


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
        return "\n".join(" ".join(message["content"].lower().split()) for message in self.prompt)

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


MakeExamples = Callable[[Mapping[str, Any]], Iterable[Example]]


def conversation(
    row: Mapping[str, Any],
    system: str | None = None,
    groups: Iterable[str] = (),
    ground: Callable[[Sequence[Message]], str] | None = None,
) -> list[Example]:
    """Make one example of each assistant turn of a row with `messages`.

    Args:
        row: with `id` and `messages`, a list of `{"role", "content"}`: an optional system message, then user
            and assistant in turn. If the user has the last word, the last example has no completion.
        system: the system message, where the row has none.
        groups: columns of the row that become the examples' groups.
        ground: messages up to a question -> what the answer can be drawn from, such as passages that were found;
            stands in the system message of that turn.

    Returns:
        Examples with the row's id, `#2` and so on added for later turns.

    Raises:
        ValueError: naming every problem of the row.
    """
    messages = row.get("messages")
    problems = _message_problems(messages)
    if not row.get("id"):
        problems.append("no id")
    problems += [f"no {name!r}" for name in groups if not row.get(name)]
    if problems:
        raise ValueError("; ".join(problems))
    assert isinstance(messages, list)
    if system and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    said = [Message(role=m["role"], content=m["content"].strip()) for m in messages]
    turns = [position for position, message in enumerate(said) if message["role"] == "user"]
    return [
        Example(
            id=str(row["id"]) if number == 1 else f"{row['id']}#{number}",
            prompt=_grounded(said[: position + 1], ground),
            completion=said[position + 1]["content"] if position + 1 < len(said) else "",
            groups={name: str(row[name]) for name in groups},
            source=str(row["id"]),
        )
        for number, position in enumerate(turns, 1)
    ]


def _grounded(messages: Sequence[Message], ground: Callable[[Sequence[Message]], str] | None) -> tuple[Message, ...]:
    """The messages, with what `ground` finds for them in the system message."""
    found = ground(messages) if ground else ""
    if not found:
        return tuple(messages)
    first = messages[0]["content"] if messages[0]["role"] == "system" else ""
    rest = messages[1:] if first else messages
    return (Message(role="system", content=f"{first}\n{found}".strip()), *rest)


def choice(
    row: Mapping[str, Any],
    question: str,
    choices: Iterable[str],
    answer: str | Collection[str] | None = None,
    *,
    system: str | None = None,
    groups: Iterable[str] = (),
    task: str = "",
) -> Example:
    """Make an example that is answered by choosing, such as a text and its class.

    Args:
        row: with `id`.
        question: what the user says.
        choices: two or more, all different.
        answer: the right one; of a question with several right choices at once (or none) all of them, as a tuple. None
            where it isn't known, which will do for asking but not for training or scoring.
        system: the system message.
        groups: columns of the row that become the example's groups.
        task: which of a recipe's questions it is; stands behind the row's id.

    Raises:
        ValueError: naming every problem of the row.
    """
    choices = tuple(choices)
    problems = [] if row.get("id") else ["no id"]
    problems += [f"no {name!r}" for name in groups if not row.get(name)]
    if not isinstance(question, str) or not question.strip():
        problems.append("nothing is asked" if isinstance(question, str) else f"{question!r} is no text")
    if len(set(choices)) != len(choices) or len(choices) < 2:
        problems.append(f"choices must be two or more, all different, not {', '.join(choices)}")
    given = () if answer is None else (answer,) if isinstance(answer, str) else tuple(answer)
    problems += [f"{one!r} is none of {', '.join(choices)}" for one in given if one not in choices]
    labels = None if answer is None or isinstance(answer, str) else tuple(one for one in choices if one in given)
    if problems:
        raise ValueError("; ".join(problems))
    user = Message(role="user", content=question.strip())
    return Example(
        id=f"{row['id']}#{task}" if task else str(row["id"]),
        prompt=(Message(role="system", content=system), user) if system else (user,),
        completion=together(labels) if labels is not None else "".join(given),
        groups={name: str(row[name]) for name in groups},
        source=str(row["id"]),
        choices=choices,
        task=task,
        labels=labels,
    )


def together(labels: Sequence[str]) -> str:
    """Several right choices as one text, for those who read it."""
    return ", ".join(labels) or NO_LABEL


def _message_problems(messages: Any) -> list[str]:
    if not isinstance(messages, list) or not messages:
        return ["no messages"]
    problems = []
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            return [f"message {number} is not an object with role and content"]
        if message.get("role") not in ROLES:
            problems.append(f"message {number} has role {message.get('role')!r}, known: {', '.join(ROLES)}")
        if not message["content"].strip():
            problems.append(f"message {number} is empty")
    roles = [message.get("role") for message in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    if not problems and (turns != (["user", "assistant"] * len(turns))[: len(turns)] or not turns):
        problems.append(f"wrong role order: {', '.join(map(str, roles))}; user and assistant must take turns")
    return problems
