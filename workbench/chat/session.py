"""A conversation with a tuned model, beside its base if asked."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from workbench.console import printable
from workbench.data import Example, Message
from workbench.errors import UserError
from workbench.generation.sampling import Sampling
from workbench.run.folder import RunFolder
from workbench.run.tuned import TunedModel, load_base, load_tuned

PROMPT = "you> "


class ChatSession:
    """A conversation with one model, which keeps what it said itself.

    Args:
        tuned: the model.
        sampling: how its answers are written.
    """

    def __init__(self, tuned: TunedModel, sampling: Sampling) -> None:
        self.tuned = tuned
        self.sampling = sampling
        self.messages: list[Message] = []
        self.example: Example | None = None

    def ask(self, question: str) -> Iterator[str]:
        """Answer `question` in pieces, as they are written, and remember both.

        Raises:
            UserError: the conversation is longer than what the model was tuned on.
        """
        messages = [*self.messages, Message(role="user", content=question)]
        asked = self.tuned.inference_examples({"id": "chat", "messages": messages})[-1]
        renderer, most = self.tuned.language_model.renderer, self.tuned.recipe.max_tokens
        length = len(renderer.prompt_ids(asked.prompt))
        if length > most:
            raise UserError(
                f"the conversation has {length} tokens, more than the {most} of max_tokens: begin a new one with /new"
            )
        self.example = asked
        answer = ""
        for piece in self.tuned.language_model.stream(asked.prompt, self.sampling):
            answer += piece
            yield piece
        if answer:  # nothing can be said of nothing
            self.messages = [*messages, Message(role="assistant", content=answer)]

    def context(self) -> str:
        """What the recipe put before the conversation: its system message, in which passages stand."""
        first = self.example.prompt[0] if self.example else None
        return first["content"] if first and first["role"] == "system" else ""

    def forget(self) -> None:
        """Begin anew."""
        self.messages, self.example = [], None


def chat(
    run: Path,
    *,
    method: str | None,
    with_base: bool,
    max_new_tokens: int | None,
    lines: Iterable[str],
    interactive: bool,
) -> None:
    """Answer every line; answers go to stdout as they come.

    Args:
        run: folder of a finished run whose recipe says how a new question is asked.
        method: of the run; None takes its best.
        with_base: let the untuned base answer, too.
        max_new_tokens: most tokens of an answer; None takes the recipe's.
        lines: questions, and commands that begin with a slash.
        interactive: whether somebody types them.

    Raises:
        UserError: the run can't be talked to.
    """
    folder = RunFolder.open(run)
    tuned = load_tuned(folder, method)
    sampling = Sampling(max_new_tokens=max_new_tokens or tuned.recipe.max_new_tokens)
    _require_conversation(tuned, sampling.max_new_tokens)
    sessions = [ChatSession(tuned, sampling)]
    if with_base:
        sessions.append(ChatSession(load_base(folder), sampling))
    if interactive:
        names = " and ".join(session.tuned.name for session in sessions)
        print(f"{names} listen; /retrieve, /new, /quit", file=sys.stderr)
        print(PROMPT, end="", file=sys.stderr, flush=True)
    for line in lines:
        said = line.strip()
        if said == "/quit":
            break
        if said == "/new":
            for session in sessions:
                session.forget()
        elif said == "/retrieve":
            context = sessions[0].context() or "nothing stands before the conversation yet"
            print(printable(context), file=sys.stderr)
        elif said.startswith("/"):
            print(printable(f"unknown command {said}; known: /new, /quit, /retrieve"), file=sys.stderr)
        elif said:
            for session in sessions:
                _answer(session, said, named=interactive or len(sessions) > 1)
        if interactive:
            print(PROMPT, end="", file=sys.stderr, flush=True)


def _require_conversation(tuned: TunedModel, max_new_tokens: int) -> None:
    """Look whether a run can be talked to.

    Raises:
        UserError: its recipe asks for something else, or so long an answer is more than the model reads.
    """
    try:
        tuned.inference_examples({"id": "chat", "messages": [Message(role="user", content="?")]})
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(f"{tuned.recipe.name} asks of rows that are no conversation ({error}): chat can't") from error
    limit = getattr(tuned.language_model.model.config, "max_position_embeddings", None)
    longest = tuned.recipe.max_tokens + max_new_tokens
    if limit is not None and longest > limit:
        raise UserError(
            f"max_tokens and {max_new_tokens} new ones are {longest}, more than the {limit} the model reads"
        )


def _answer(session: ChatSession, question: str, named: bool) -> None:
    if named:
        print(f"{session.tuned.name}> ", end="", flush=True)
    try:
        for piece in session.ask(question):
            print(printable(piece), end="", flush=True)
        print(flush=True)
    except (UserError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        print(printable(f"error: {error}"), file=sys.stderr)
