"""A conversation with a tuned model, beside its base if asked."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from workbench.data import Example, Message
from workbench.errors import UserError
from workbench.evaluation import generation_config
from workbench.run.job import read_options
from workbench.run.tuned import TunedModel, load_tuned, open_base

PROMPT = "you> "


class ChatSession:
    """A conversation with one model, which keeps what it said itself.

    Args:
        opened: the model.
        name: in front of its answers.
        max_new_tokens: most tokens of an answer.
    """

    def __init__(self, tuned: TunedModel, name: str, max_new_tokens: int) -> None:
        self.tuned = tuned
        self.name = name
        self.generation = generation_config(tuned.renderer, tuned.model, max_new_tokens)
        self.messages: list[Message] = []
        self.example: Example | None = None

    def ask(self, question: str, streamer: Any = None) -> str:
        """Answer `question`, and remember both.

        Args:
            streamer: of transformers; is given the answer as it comes.

        Raises:
            UserError: the conversation is longer than what the model was tuned on.
        """
        assert self.tuned.recipe.inference_examples is not None
        messages = [*self.messages, Message(role="user", content=question)]
        self.example = list(self.tuned.recipe.inference_examples({"id": "chat", "messages": messages}))[-1]
        ids = self.tuned.renderer.tokens(self.tuned.renderer.prompt(self.example.prompt))
        if len(ids) > self.tuned.recipe.max_tokens:
            raise UserError(
                f"the conversation has {len(ids)} tokens, more than the {self.tuned.recipe.max_tokens} of max_tokens: "
                "begin a new one with /new"
            )
        device = next(self.tuned.model.parameters()).device
        asked = torch.tensor([ids], device=device)
        with torch.inference_mode():
            output = self.tuned.model.generate(  # type: ignore[operator]
                input_ids=asked,
                attention_mask=torch.ones_like(asked),
                generation_config=self.generation,
                streamer=streamer,
            )
        answer = str(self.tuned.renderer.tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True)).strip()
        if answer:  # nothing can be said of nothing
            self.messages = [*messages, Message(role="assistant", content=answer)]
        return answer

    def found(self) -> str:
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
        run: folder of a finished run whose recipe `asks`.
        method: of the run; None takes its best.
        with_base: let the untuned base answer, too.
        max_new_tokens: most tokens of an answer; None takes the recipe's.
        lines: questions, and commands that begin with a slash.
        interactive: whether somebody types them.

    Raises:
        UserError: the run can't be talked to.
    """
    options = read_options(run)
    tuned = load_tuned(run, options, method)
    most = max_new_tokens or tuned.recipe.max_new_tokens
    _require_conversation(tuned, options.recipe, most)
    sessions = [ChatSession(tuned, tuned.record["method"], most)]
    if with_base:
        sessions.append(ChatSession(open_base(options), "base", most))
    if interactive:
        print(f"{' and '.join(session.name for session in sessions)} listen; /retrieve, /new, /quit", file=sys.stderr)
        print(PROMPT, end="", file=sys.stderr, flush=True)
    for line in lines:
        said = line.strip()
        if said == "/quit":
            break
        if said == "/new":
            for session in sessions:
                session.forget()
        elif said == "/retrieve":
            print(sessions[0].found() or "nothing stands before the conversation yet", file=sys.stderr)
        elif said.startswith("/"):
            print(f"unknown command {said}; known: /new, /quit, /retrieve", file=sys.stderr)
        elif said:
            for session in sessions:
                _answer(session, said, named=interactive or len(sessions) > 1)
        if interactive:
            print(PROMPT, end="", file=sys.stderr, flush=True)


def _require_conversation(tuned: TunedModel, recipe: str, max_new_tokens: int) -> None:
    """Look whether a run can be talked to.

    Raises:
        UserError: its recipe asks for something else, or so long an answer is more than the model reads.
    """
    if tuned.recipe.inference_examples is None:
        raise UserError(f"{recipe} does not say how a new question is asked: see `asks`")
    try:
        list(tuned.recipe.inference_examples({"id": "chat", "messages": [Message(role="user", content="?")]}))
    except (KeyError, TypeError) as error:
        raise UserError(f"{recipe} asks of rows that are no conversation ({error}): chat can't") from error
    limit = getattr(tuned.model.config, "max_position_embeddings", None)
    longest = tuned.recipe.max_tokens + max_new_tokens
    if limit is not None and longest > limit:
        raise UserError(
            f"max_tokens and {max_new_tokens} new ones are {longest}, more than the {limit} the model reads"
        )


def _answer(session: ChatSession, question: str, named: bool) -> None:
    from transformers import TextStreamer

    if named:
        print(f"{session.name}> ", end="", flush=True)
    try:
        session.ask(
            question, TextStreamer(session.tuned.renderer.tokenizer, skip_prompt=True, skip_special_tokens=True)
        )
    except (UserError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
