"""A runtime in a process of its own, asked in lots so that a progress bar moves."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workbench.console import progress_bar
from workbench.export.formats.format import Continued, Likeliest
from workbench.script import Script

TOGETHER = 16


def ask_in_lots(
    script: Script, bodies: Sequence[Any], request: Callable[[list[Any]], Any], title: str = ""
) -> list[Any]:
    """Answers of a script to many requests of a kind.

    Args:
        bodies: one for each answer.
        request: some of them -> what the script is sent.
        title: in front of a progress bar; none for an empty one.

    Raises:
        RuntimeError: it could not give one.
    """
    found: list[Any] = []
    with progress_bar(title, total=len(bodies), unit="answer") as bar:
        for start in range(0, len(bodies), TOGETHER):
            some = list(bodies[start : start + TOGETHER])
            answer = script.ask(request(some))
            if "error" in answer:
                raise RuntimeError(answer["error"])
            found += answer["answers"]
            bar.update(len(some))
    return found


class ScriptRuntime:
    """A script with a model, in a process of its own; implements `Runtime`.

    Its requests hold `conversations`, `texts`, `prompts` with `max_new_tokens`, or `prefixes` with `count`; see
    `stock/serve.py`.
    """

    def __init__(self, script: Script) -> None:
        self._script = script

    def prompt_ids(self, conversations: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        """See `Runtime`."""
        return ask_in_lots(self._script, conversations, lambda some: {"conversations": some})

    def text_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Runtime`."""
        return ask_in_lots(self._script, texts, lambda some: {"texts": some})

    def continued(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, title: str = "") -> list[Continued]:
        """See `Runtime`."""
        given = [list(ids) for ids in prompts]
        settings = {"max_new_tokens": max_new_tokens}
        answers = ask_in_lots(self._script, given, lambda some: {"prompts": some, **settings}, title)
        return [Continued(**answer) for answer in answers]

    def likeliest(self, prefixes: Sequence[Sequence[int]], count: int, title: str = "") -> list[Likeliest]:
        """See `Runtime`."""
        given = [list(ids) for ids in prefixes]
        found = ask_in_lots(self._script, given, lambda some: {"prefixes": some, "count": count}, title)
        return [[(token, log) for token, log in one] for one in found]


@contextmanager
def served(path: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[ScriptRuntime]:
    """A script that serves a model, until the block ends; see `Script`."""
    script = Script(path, *arguments, environment=environment)
    try:
        yield ScriptRuntime(script)
    finally:
        script.close()
