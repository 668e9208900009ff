"""A script in a Python process of its own that is asked by lines of JSON, and answers so."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class ScriptEndedError(RuntimeError):
    """The process ended where it should have answered.

    Attributes:
        code: its exit code, negative for the signal that ended it.
    """

    def __init__(self, code: int, said: str) -> None:
        super().__init__(said or f"it ended with exit code {code} and wrote no error")
        self.code = code


class Script:
    """A process for a script, begun when it is first asked, and anew where it ended.

    It imports nothing from the working folder or from what the caller's environment adds to Python's paths.

    Args:
        path: of the script, which answers each line of standard input with one on standard output.
        arguments: on its command line.
        environment: what is set beside the caller's environment.
    """

    def __init__(self, path: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self._command = [sys.executable, "-E", "-P", str(path), *arguments]
        self._environment = environment or {}
        self._process: subprocess.Popen[str] | None = None
        self._errors: Any = None
        self._asked = False

    def begin(self) -> None:
        """Start its process, which imports while the caller does something else; `ask` would start it, too."""
        self._started()

    def ask(self, request: Any) -> Any:
        """Its answer.

        Raises:
            ScriptEndedError: it gave none; the message is the last line that it wrote on standard error.
            TypeError, ValueError: JSON can't hold the request.
        """
        line = json.dumps(request)
        process = self._started()
        self._asked = True
        try:
            answer = self._exchanged(process, line)
        except BaseException:  # an answer that nobody read would be taken for that to the next request
            self.kill()
            self.close()
            raise
        if not answer:
            code = process.wait()
            self._errors.seek(0)
            said = self._errors.read().strip().splitlines()
            self.close()
            raise ScriptEndedError(code, said[-1] if said else "")
        return json.loads(answer)

    def kill(self) -> None:
        """Stop it in the middle of what it does; whoever waits for its answer gets none."""
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """Let it end, or stop it where nothing was asked: it may still be importing."""
        process, self._process = self._process, None
        if process is not None:
            if not self._asked:
                process.kill()
            process.communicate()
            self._errors.close()

    def _started(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is not None:
            self.close()
        if self._process is None:
            self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  kept open
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                encoding="utf-8",
                env={**os.environ, **self._environment},
            )
        return self._process

    @staticmethod
    def _exchanged(process: subprocess.Popen[str], line: str) -> str:
        """The answer to a line; "" from a process that has ended."""
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            return ""
        return process.stdout.readline()
