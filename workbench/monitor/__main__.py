"""Watch a stream of texts with a tuned model, and tell when opinion of a topic turns.

python -m workbench.monitor runs/opinion/2026-01-31-0900 posts.jsonl
python -m workbench.monitor runs/opinion/2026-01-31-0900 posts.jsonl --follow
"""

import argparse
import re
import sys
from pathlib import Path

from workbench.console import add_device_option, command

EPILOG = """\
examples:
  %(prog)s RUN posts.jsonl                       a file, to its end; again later: what was added since
  %(prog)s RUN posts.jsonl --follow              a file that grows
  producer | %(prog)s RUN -                      standard input
  %(prog)s RUN posts.jsonl --window 1d --false-alarms 0.001 --out watch

Each line is a JSON object with `id`, `time` (ISO 8601, or seconds since 1970), `text`, and whatever else the recipe
asks with, such as `firm`. Lines that are none go to rejected.jsonl with the reason.

The model says of each text what it is about and which label it has. The recipe's `monitoring` names the label that is
counted, such as negative. A window of time is over when a text of a later one comes. Then the share of such texts of
each topic is held against the topic's last quiet windows by an exact test, which a quiet topic fails with a chance of
at most --false-alarms in each window. Alerts are JSON lines on stdout.

In the output folder: items.jsonl (what the model made of each text), alerts.jsonl, rejected.jsonl, trend.html (open it
in a browser; it renews itself) and state.json. Stopped or killed at any time, the same command goes on where it was: no
text of a file is lost or counted twice, and alerts.jsonl has every alert, whether stdout was read or not. A text whose
id is among the last 10,000 is not counted again. A file may be rotated, to posts.jsonl.1 or posts.jsonl-20260131 and so
on, or copied there and cut off, while it is followed or while nothing runs: the rest of it is read first, if it lies
there uncompressed; if not, that is said.

Left out are texts that are dated more than ten minutes ahead, ids of more than 256 bytes, and lines of more than a
megabyte.

Standard input is kept in stream.jsonl, and what has arrived there is safe. What was still in the pipe when the process
was killed is its producer's: let it send that again.

exit codes: 0 the stream ended; 2 a mistake in what was asked for; 130 interrupted.
"""
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="workbench monitor",
        description="Watch a stream of texts with a tuned model, and tell when opinion of a topic turns.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "run",
        type=Path,
        metavar="RUN",
        help="output folder of a run whose recipe has `monitoring`, such as recipes/opinion.py",
    )
    p.add_argument("stream", metavar="STREAM", help="a file of JSON lines, or - for standard input")
    p.add_argument("--method", metavar="NAME", help="a method of that run (default: its best)")
    add_device_option(p)
    p.add_argument("--out", type=Path, metavar="DIR", help="output folder (default: RUN/monitor-STREAM)")
    p.add_argument("--follow", action="store_true", help="wait for more at the end of the file")
    p.add_argument(
        "--window", type=duration, default=3600.0, metavar="TIME", help="length of a window: 30m, 1h, 1d (default: 1h)"
    )
    p.add_argument(
        "--false-alarms", type=chance, default=0.001, metavar="P",
        help="chance of an alert in a window of a quiet topic, at most (default: 0.001)",
    )  # fmt: skip
    p.add_argument(
        "--history", type=int, default=48, metavar="N",
        help="quiet windows that a new one is held against, at least 8 (default: 48)",
    )  # fmt: skip
    p.add_argument(
        "--batch", type=int, default=32, metavar="N", help="texts classified together, at most (default: 32)"
    )
    return p


def duration(text: str) -> float:
    """30m, 1h, 1d -> seconds, for argparse."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no length of time such as 30m, 1h or 1d")
    return float(match[1]) * UNITS[match[2]]


def chance(text: str) -> float:
    """A probability between 0 and 1, for argparse."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} does not lie between 0 and 1")
    return value


@command(parser, then="; the same command goes on from there")
def main(arguments: argparse.Namespace) -> int:
    """Carry out what was asked for; return the exit code."""
    from workbench.device import choose
    from workbench.errors import UserError
    from workbench.monitor.surge import FEWEST_WINDOWS

    if arguments.history < FEWEST_WINDOWS:
        raise UserError(f"--history {arguments.history}: at least {FEWEST_WINDOWS} windows are needed to judge another")
    if arguments.batch < 1:
        raise UserError(f"--batch {arguments.batch} is less than 1")
    if arguments.stream != "-" and not Path(arguments.stream).is_file():
        raise UserError(f"no stream at {arguments.stream}: give a file of JSON lines, or - for standard input")
    name = "stdin" if arguments.stream == "-" else Path(arguments.stream).stem

    from workbench.monitor.session import monitor

    choose(arguments.device)
    monitor(
        arguments.run,
        None if arguments.stream == "-" else Path(arguments.stream),
        arguments.out or arguments.run / f"monitor-{name}",
        method=arguments.method,
        follow=arguments.follow,
        window_seconds=arguments.window,
        false_alarms=arguments.false_alarms,
        history=arguments.history,
        batch=arguments.batch,
        alerts=sys.stdout,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
