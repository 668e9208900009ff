"""A Modelfile for Ollama: a file of the model, its chat template in Ollama's language, greedy answers and their end.

Ollama runs GGUF files, but not the Jinja template in them: it has its own, of Go. Ours is found by asking the chat
template for a few conversations, and written down only if it gives the same text for others.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from workbench.data import Message

Write = Callable[[Sequence[Message], bool], str]
MODELFILE = "Modelfile"
SYSTEM, USER, ANSWER, MORE = "System-text.", "User-text.", "Answer-text.", "More-text."


@dataclass(frozen=True, kw_only=True)
class Turns:
    """A chat template that writes one turn after the other, the same text around each.

    Attributes:
        begin: before the first user's message, where no system message stands.
        before_system, after_system: around a system message, the latter up to the user's message.
        after_user: behind a user's message, up to where the answer begins.
        after_answer: behind an answer, up to the next user's message.
    """

    begin: str
    before_system: str
    after_system: str
    after_user: str
    after_answer: str

    def text(self, messages: Sequence[Message]) -> str:
        """What it writes of a conversation whose last message is the user's."""
        found = "" if messages[0]["role"] == "system" else self.begin
        for message in messages:
            content = message["content"]
            if message["role"] == "system":
                found += f"{self.before_system}{content}{self.after_system}"
            else:
                found += f"{content}{self.after_user if message['role'] == 'user' else self.after_answer}"
        return found

    def go(self) -> str:
        """The same in the template language of Go, over Ollama's `.Messages`."""
        begin, before, after, user, answer = (
            f"{{{{ {json.dumps(part, ensure_ascii=False)} }}}}" if part else ""
            for part in (self.begin, self.before_system, self.after_system, self.after_user, self.after_answer)
        )
        return (
            f'{{{{- if ne (index .Messages 0).Role "system" }}}}{begin}{{{{ end }}}}'
            "{{- range .Messages }}"
            f'{{{{- if eq .Role "system" }}}}{before}{{{{ .Content }}}}{after}'
            f'{{{{- else if eq .Role "user" }}}}{{{{ .Content }}}}{user}'
            f'{{{{- else if eq .Role "assistant" }}}}{{{{ .Content }}}}{answer}'
            "{{- end }}{{- end }}"
        )


def _say(*texts: str) -> list[Message]:
    """A conversation in which user and assistant take turns, behind a system message if `SYSTEM` is the first."""
    roles = ["system"] * (texts[0] == SYSTEM) + ["user", "assistant"] * len(texts)
    return [Message(role=role, content=text) for role, text in zip(roles, texts, strict=False)]


def turns_of(write: Write) -> Turns | None:
    """How a chat template writes turns; None if it does more than that.

    Args:
        write: messages, and whether the answer is to follow -> text.
    """
    try:
        first, with_system = write(_say(USER), True), write(_say(SYSTEM, USER), True)
        several = write(_say(USER, ANSWER, MORE), True)
        begin, after_user = first.split(USER)
        before_system, rest = with_system.split(SYSTEM)
        after_system, _ = rest.split(USER)
        after_answer = several.split(ANSWER)[1].split(MORE)[0]
        found = Turns(
            begin=begin, before_system=before_system, after_system=after_system, after_user=after_user,
            after_answer=after_answer,
        )  # fmt: skip
        tried = [_say(MORE), _say(SYSTEM, MORE, USER, ANSWER, USER, MORE), _say(MORE, ANSWER, USER, ANSWER, USER)]
        return found if all(write(one, True) == found.text(one) for one in tried) else None
    except (ValueError, IndexError):  # it refuses one of them, or writes a text twice
        return None


def modelfile(file: str, turns: Turns | None, bos: str | None, end_of_turn: str) -> str:
    """The text of a Modelfile.

    Args:
        file: name of the GGUF file beside it.
        turns: None where Ollama's language can't say what the chat template does.
        bos: the token that llama.cpp itself puts in front of every text; a template must not write it again.
        end_of_turn: the text of the token that ends an answer.
    """
    lines = [f"FROM ./{file}"]
    if turns is None:
        lines.append(
            "# The chat template of this model can't be written in Ollama's language: give prompts as they are"
        )
    else:
        if bos:
            turns = Turns(**{**vars(turns), "begin": turns.begin.removeprefix(bos),
                             "before_system": turns.before_system.removeprefix(bos)})  # fmt: skip
        lines.append(f'TEMPLATE """{turns.go()}"""')
    lines += [
        f"PARAMETER stop {json.dumps(end_of_turn, ensure_ascii=False)}",
        "# Greedy, as the model was scored.",
        "PARAMETER temperature 0",
        "PARAMETER repeat_penalty 1.0",
    ]
    return "\n".join(lines) + "\n"
