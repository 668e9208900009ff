"""Talking to a finished run: the same answers as in it, a conversation kept, and one line for each mistake."""

import io
import json
import shutil
from pathlib import Path

import pytest

from tiny import write_recipe
from workbench.chat import __main__ as chat_module
from workbench.chat.session import ChatSession
from workbench.console import printable
from workbench.generation.sampling import Sampling
from workbench.run.__main__ import main as run
from workbench.run.folder import RunFolder
from workbench.run.tuned import load_tuned

RECIPE = """
from dataclasses import replace
recipe = replace(
    recipe, methods=("untuned", "lora", "prefix"),
    inference_examples=lambda row: conversation(row, ground=lambda messages: f"found for {len(messages)}")[-1:],
)
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose recipe can be asked, which no test changes."""
    folder = tmp_path_factory.mktemp("asked")
    path = write_recipe(folder, RECIPE)
    assert run([str(path), "--limit", "8", "--bits", "32", "--out", str(folder / "run")]) == 0
    return folder / "run"


def talk_to(
    run_folder: Path, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[int, str, str]:
    capsys.readouterr()
    monkeypatch.setattr("sys.stdin", io.StringIO(said))
    code = chat_module.main([str(run_folder), *options])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_run_is_talked_to(done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for method in ("lora", "prefix"):
        tuned = load_tuned(RunFolder.open(done), method)
        session = ChatSession(tuned, Sampling(max_new_tokens=12))
        first = "".join(session.ask("What does it cost?"))
        assert session.context() == "found for 1"
        # The answer is in the next prompt, as the model gave it.
        list(session.ask("And then?"))
        assert session.example is not None
        assert [m["content"] for m in session.example.prompt] == [
            "found for 3",
            "What does it cost?",
            first,
            "And then?",
        ]
        session.forget()
        assert "".join(session.ask("What does it cost?")) == first
        # It is what evaluation says.
        (example,) = [session.example]
        assert tuned.write([example])[0].startswith(first[:20])
        code, out, err = talk_to(
            done, "/retrieve\nWhat does it cost?\n/retrieve\n/what\n/new\n/quit\nnever\n", monkeypatch, capsys,
            "--method", method, "--max-new-tokens", "12",
        )  # fmt: skip
        assert code == 0
        assert out.strip() == printable(first).strip()
        assert "nothing stands before the conversation yet" in err
        assert "found for 1" in err
        assert "unknown command /what" in err
    code, out, _ = talk_to(done, "Hello\n", monkeypatch, capsys, "--base")
    assert code == 0
    assert [line.partition(">")[0] for line in out.splitlines() if "> " in line][-1] == "base"


def test_an_answer_moves_no_cursor_and_writes_to_no_clipboard(
    done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pieces = ["It costs ", "\x1b]52;c;ZXZpbA==\x07", "\x1b[2J", "\x9b31m€4\n"]
    monkeypatch.setattr(ChatSession, "ask", lambda session, question: iter(pieces))
    _, out, err = talk_to(done, "What?\n/\x1b[2Jwhat\n", monkeypatch, capsys, "--method", "lora")
    assert not set(out + err) & set("\x1b\x07\x9b")
    assert r"It costs \x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b31m€4" in out
    assert r"unknown command /\x1b[2Jwhat" in err


def test_mistakes_are_one_line(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, message in (
        (("--method", "houlsby"), "unknown method of this run 'houlsby'"),
        (("--max-new-tokens", "0"), "less than 1"),
    ):
        code, _, err = talk_to(done, "Hello\n", monkeypatch, capsys, *options)
        assert (code, err.count("\n")) == (2, 1)
        assert message in err
    code, _, err = talk_to(tmp_path / "none", "Hello\n", monkeypatch, capsys)
    assert (code, "is no run" in err) == (2, True)
    long = " ".join(["transfer"] * 300)
    code, out, err = talk_to(done, f"{long}\n", monkeypatch, capsys)
    assert (code, out.strip()) == (0, "")
    assert "begin a new one with /new" in err
    failed = tmp_path / "failed"
    shutil.copytree(done, failed)
    results = json.loads((failed / "results.json").read_text())
    results["runs"] = [{**record, "status": "failed", "error": "no memory"} for record in results["runs"]]
    (failed / "results.json").write_text(json.dumps(results))
    assert "has finished no method yet" in talk_to(failed, "", monkeypatch, capsys)[2]
