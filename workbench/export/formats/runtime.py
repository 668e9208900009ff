"""A runtime in a process of its own, asked in lots so that a progress bar moves."""

from collections.abc import Callable, Sequence
from typing import Any

from workbench.console import progress_bar
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
