"""Chat templates are programs that come with a checkpoint: run in a process of its own, bounded in time and memory."""

import atexit
import json
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.script import Script, ScriptEndedError

SCRIPT = Path(__file__).with_name("sandbox_process.py")
# Of processor time for one conversation, which takes a sound template less than a thousandth of it.
SECONDS = 10.0
# Beyond what the process needs by itself.
BYTES = 2**30
# Characters that are asked for at once.
TOGETHER = 2**22
# Whether a process can have a timer of the processor time that it takes; on Windows the clock is watched from outside.
HAS_TIMER = hasattr(signal, "setitimer")


class TemplateSandbox:
    """Renders chat templates in a process of its own.

    Args:
        seconds: of processor time that one conversation may take.
        room: bytes of memory that a template may use; only Linux heeds it.
    """

    def __init__(self, seconds: float = SECONDS, room: int = BYTES) -> None:
        self.seconds = seconds
        self._script = Script(SCRIPT, str(seconds), str(room))
        self._lock = threading.Lock()
        self._stopped = False

    def render(
        self, template: str, tokens: Mapping[str, Any], asked: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, str]]:
        """What the template makes of conversations.

        Args:
            tokens: the tokenizer's special tokens by name.
            asked: of each conversation `messages`, `tools` and `add_generation_prompt`.

        Returns:
            For each its `text`, or why it has none: `refused` by the template itself, or `failed`.

        Raises:
            UserError: the template was stopped, or a message holds what JSON can't.
        """
        given = {"template": template, "tokens": dict(tokens)}
        try:
            with self._lock:
                return [text for some in _in_parts(asked) for text in self._ask({**given, "asked": some}, len(some))]
        except ScriptEndedError as error:
            if self._stopped or (HAS_TIMER and error.code == -signal.SIGPROF):
                raise UserError(
                    f"the checkpoint's chat template ran for more than {self.seconds:g} seconds on one conversation "
                    "and was stopped: repair it in a local copy of the checkpoint, or take another one"
                ) from error
            raise UserError(f"chat templates can't be rendered: their process ended, {error}") from error
        except (TypeError, RecursionError) as error:
            raise UserError(f"a message holds what a chat template can't be given: {error}") from error

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._script.close()

    def _ask(self, request: Mapping[str, Any], conversations: int) -> list[dict[str, str]]:
        """The answers; where the process has no timer of its own, it is stopped by the clock."""
        if HAS_TIMER:
            return list(self._script.ask(request))

        def stop() -> None:
            self._stopped = True
            self._script.kill()

        timer = threading.Timer(60 + self.seconds * conversations, stop)
        self._stopped = False
        timer.start()
        try:
            return list(self._script.ask(request))
        finally:
            timer.cancel()


def _in_parts(asked: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """Conversations of so many characters together: the process's memory is meant for the template."""
    some: list[Mapping[str, Any]] = []
    size = 0
    for one in asked:
        length = len(json.dumps(one))
        if some and size + length > TOGETHER:
            yield some
            some, size = [], 0
        some.append(one)
        size += length
    if some:
        yield some


@cache
def sandbox() -> TemplateSandbox:
    """The one that all templates of this process are rendered in."""
    shared = TemplateSandbox()
    atexit.register(shared.close)
    return shared
