"""A script in a process of its own."""

from pathlib import Path

import pytest

from workbench.script import Script, ScriptEndedError

ECHO = """
import sys
for line in sys.stdin:
    if "end" in line:
        raise SystemExit("it was told to")
    print(line.upper(), end="", flush=True)
"""


def test_it_answers_line_by_line_and_begins_anew_where_it_ended(tmp_path: Path) -> None:
    script = Script(tmp_path / "echo.py")
    (tmp_path / "echo.py").write_text(ECHO)
    script.begin()
    assert [script.ask("a"), script.ask(["b"])] == ["A", ["B"]]
    with pytest.raises(ScriptEndedError, match="it was told to"):
        script.ask("end")
    assert script.ask("c") == "C"
    script.close()


def test_it_says_why_it_ended(tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text("raise SystemExit('there is no room')")
    with pytest.raises(ScriptEndedError, match="there is no room"):
        Script(tmp_path / "ends.py").ask({})


def test_one_that_was_asked_nothing_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "sleeps.py").write_text("import time\nwhile True:\n    time.sleep(1)")
    script = Script(tmp_path / "sleeps.py")
    script.begin()
    process = script._process
    assert process is not None
    script.close()
    assert process.returncode != 0
