"""What every command does alike."""

import subprocess
import sys

import pytest

from workbench.console import printable
from workbench.errors import without_places

WEB = "see https://example.org/a/b and data/rows.jsonl, 3/4/5"
STOPPED = """
import argparse, os, signal, sys
from workbench.console import command
@command(argparse.ArgumentParser, then=", go on with --resume")
def main(arguments):
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # what a shell runs in the background inherits that
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        os.kill(os.getpid(), getattr(signal, sys.stdin.read()))
        signal.pause()
    finally:
        print("cleaned up")
sys.exit(main([]))
"""


@pytest.mark.parametrize(
    ("number", "code", "said"), [("SIGTERM", 143, "stopped by SIGTERM"), ("SIGINT", 130, "interrupted")]
)
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_command_that_is_stopped_cleans_up(number: str, code: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STOPPED], input=number, capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (code, "cleaned up\n", f"\n{said}, go on with --resume\n")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, 你好 and שלום", "plain, 你好 and שלום"),
        ("\x1b]52;c;cm0=\x07", r"\x1b]52;c;cm0=\x07"),
        ("pay \u202e001\u202c", r"pay \u202e001\u202c"),
        ("\u2067x\u2069", r"\u2067x\u2069"),
    ],
)
def test_a_text_does_nothing_to_a_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("text", "shared"),
    [
        ("no file /data/bank/rows.jsonl: gone", "no file rows.jsonl: gone"),
        ("'/srv/models/base' differs", "'base' differs"),
        ("No such file: '/data/two words/bank/x.bin'", "No such file: 'x.bin'"),
        (repr(r"C:\data\bank\x.bin"), "'x.bin'"),
        (r"C:\data\rows.csv:17", "rows.csv:17"),
        (WEB, WEB),
    ],
)
def test_shared_texts_name_no_folders(text: str, shared: str) -> None:
    assert without_places(text) == shared
