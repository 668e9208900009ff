"""Chat templates are programs that come with a checkpoint: run in a process of its own, bounded in time and memory."""

import atexit
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
        try:
            with self._lock, self._watched(len(asked)):
                return list(self._script.ask({"template": template, "tokens": dict(tokens), "asked": list(asked)}))
        except ScriptEndedError as error:
            told = f"failed: {error}"
            if not HAS_TIMER or error.code == -signal.SIGPROF:
                told = f"ran for more than {self.seconds:g} seconds on one conversation and was stopped"
            told = f"the checkpoint's chat template {told}"
            raise UserError(f"{told}: repair it in a local copy of the checkpoint, or take another one") from error
        except (TypeError, RecursionError) as error:
            raise UserError(f"a message holds what a chat template can't be given: {error}") from error

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._script.close()

    @contextmanager
    def _watched(self, conversations: int) -> Iterator[None]:
        """Stop the process by the clock where it has no timer of its own."""
        if HAS_TIMER:
            yield
            return
        timer = threading.Timer(60 + self.seconds * conversations, self._script.kill)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


@cache
def sandbox() -> TemplateSandbox:
    """The one that all templates of this process are rendered in."""
    shared = TemplateSandbox()
    atexit.register(shared.close)
    return shared
