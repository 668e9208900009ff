"""A conversation with a tuned model, beside its base if asked."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from workbench.data import Example, Message
from workbench.errors import UserError
from workbench.evaluation import generation_config
from workbench.job.job import read_options
from workbench.job.opened import Opened, open_base, open_method

PROMPT = "you> "


class Talk:
    """A conversation with one model, which keeps what it said itself.

    Args:
        opened: the model.
        name: in front of its answers.
        max_new_tokens: most tokens of an answer.
    """

    def __init__(self, opened: Opened, name: str, max_new_tokens: int) -> None:
        self.opened = opened
        self.name = name
        self.generation = generation_config(opened.renderer, opened.model, max_new_tokens)
        self.messages: list[Message] = []
        self.example: Example | None = None

    def ask(self, question: str, streamer: Any = None) -> str:
        """Answer `question`, and remember both.

        Args:
            streamer: of transformers; is given the answer as it comes.

        Raises:
            UserError: the conversation is longer than what the model was tuned on.
        """
        assert self.opened.recipe.asks is not None
        messages = [*self.messages, Message(role="user", content=question)]
        self.example = list(self.opened.recipe.asks({"id": "chat", "messages": messages}))[-1]
        ids = self.opened.renderer.tokens(self.opened.renderer.prompt(self.example.prompt))
        if len(ids) > self.opened.recipe.max_tokens:
            raise UserError(
                f"the conversation has {len(ids)} tokens, more than the {self.opened.recipe.max_tokens} of max_tokens: "
                "begin a new one with /new"
            )
        place = next(self.opened.model.parameters()).device
        asked = torch.tensor([ids], device=place)
        with torch.inference_mode():
            output = self.opened.model.generate(  # type: ignore[operator]
                input_ids=asked,
                attention_mask=torch.ones_like(asked),
                generation_config=self.generation,
                streamer=streamer,
            )
        answer = str(self.opened.renderer.tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True)).strip()
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
    opened = open_method(run, options, method)
    most = max_new_tokens or opened.recipe.max_new_tokens
    _require_conversation(opened, options.recipe, most)
    talks = [Talk(opened, opened.record["method"], most)]
    if with_base:
        talks.append(Talk(open_base(options), "base", most))
    if interactive:
        print(f"{' and '.join(talk.name for talk in talks)} listen; /retrieve, /new, /quit", file=sys.stderr)
        print(PROMPT, end="", file=sys.stderr, flush=True)
    for line in lines:
        said = line.strip()
        if said == "/quit":
            break
        if said == "/new":
            for talk in talks:
                talk.forget()
        elif said == "/retrieve":
            print(talks[0].found() or "nothing stands before the conversation yet", file=sys.stderr)
        elif said.startswith("/"):
            print(f"unknown command {said}; known: /new, /quit, /retrieve", file=sys.stderr)
        elif said:
            for talk in talks:
                _answer(talk, said, named=interactive or len(talks) > 1)
        if interactive:
            print(PROMPT, end="", file=sys.stderr, flush=True)


def _require_conversation(opened: Opened, recipe: str, max_new_tokens: int) -> None:
    """Look whether a run can be talked to.

    Raises:
        UserError: its recipe asks for something else, or so long an answer is more than the model reads.
    """
    if opened.recipe.asks is None:
        raise UserError(f"{recipe} does not say how a new question is asked: see `asks`")
    try:
        list(opened.recipe.asks({"id": "chat", "messages": [Message(role="user", content="?")]}))
    except (KeyError, TypeError) as error:
        raise UserError(f"{recipe} asks of rows that are no conversation ({error}): chat can't") from error
    limit = getattr(opened.model.config, "max_position_embeddings", None)
    longest = opened.recipe.max_tokens + max_new_tokens
    if limit is not None and longest > limit:
        raise UserError(
            f"max_tokens and {max_new_tokens} new ones are {longest}, more than the {limit} the model reads"
        )


def _answer(talk: Talk, question: str, named: bool) -> None:
    from transformers import TextStreamer

    if named:
        print(f"{talk.name}> ", end="", flush=True)
    try:
        talk.ask(question, TextStreamer(talk.opened.renderer.tokenizer, skip_prompt=True, skip_special_tokens=True))
    except (UserError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
