"""What every command does alike: arguments, exit codes, progress bars, numbers as text."""

import argparse
import atexit
import io
import logging
import math
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import UserError
from workbench.files import is_of_full_disk

if TYPE_CHECKING:
    from tqdm import tqdm

# Tries after which a waiting thread of OpenMP sleeps.
SPIN_COUNT = "1000"
# Of the control group that a container shows its processes as the whole: "max 100000" or "150000 100000".
CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")
# What moves a terminal's cursor, clears it, names its window or writes to the clipboard; a line's end and a tab don't.
# And what turns the direction of the text behind it, so that it reads as another than it is.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# What Markdown makes something of, inside a line.
MARKS = re.compile(r"[\\`*\[\]<>|!]")
MARKS_WRITTEN = {"<": "&lt;", ">": "&gt;"}
QUIET = (
    "transformers",
    "trl",
    "peft",
    "datasets",
    "accelerate",
    "huggingface_hub",
    "httpx",
    "filelock",
    "bitsandbytes",
)


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Let the user say on which device models are held."""
    parser.add_argument(
        "--device",
        metavar="NAME",
        help="hold models on this device: cpu, cuda, cuda:1, mps, xpu (default: the accelerator, if there is one)",
    )


def command(
    parser: Callable[[], argparse.ArgumentParser], then: str = ""
) -> Callable[[Callable[[argparse.Namespace], int]], Callable[..., int]]:
    """Turn a function of parsed arguments into an entry point.

    The user's mistake is one line on stderr and exit code 2; a full disk is one line and 1; an interruption is
    130, by SIGTERM 143. Anything else is our bug, and shows its traceback.

    Args:
        then: added to what is said of a full disk or an interruption: how to go on.
    """

    def decorate(function: Callable[[argparse.Namespace], int]) -> Callable[..., int]:
        @wraps(function)
        def main(argv: Sequence[str] | None = None) -> int:
            take_any_sign()
            arguments = parser().parse_args(argv)
            _heed_termination()
            share_processor()
            quiet_libraries()
            try:
                return function(arguments)
            except UserError as error:
                print(printable(f"error: {error}"), file=sys.stderr)
                return 2
            except BrokenPipeError:  # nobody reads stdout any more; Python would complain once more at its end
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return 1
            except OSError as error:
                if not is_of_full_disk(error):
                    raise
                where = f" while writing {error.filename}" if error.filename else ""
                print(f"error: the disk is full{where}; free some space{then}", file=sys.stderr)
                return 1
            except _TerminatedError:
                _end_undisturbed()
                print(f"\nstopped by SIGTERM{then}", file=sys.stderr)
                return 143
            except KeyboardInterrupt:
                _end_undisturbed()
                print(f"\ninterrupted{then}", file=sys.stderr)
                return 130

        return main

    return decorate


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM, as a service manager or a cluster sends it."""


def _heed_termination() -> None:
    """Let SIGTERM end a command as Ctrl-C does: what is being written is removed, child processes end."""
    if threading.current_thread() is threading.main_thread():

        def stop(number: int, frame: object) -> None:
            raise _TerminatedError

        signal.signal(signal.SIGTERM, stop)


def _end_undisturbed() -> None:
    """Let a second Ctrl-C not break off what libraries do at the end of the process, which would show a traceback."""
    if threading.current_thread() is threading.main_thread():
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # the last one registered is the first to run


def take_any_sign() -> None:
    """Print a replacement for what a console's encoding hasn't, and read one for bytes that are no text in it.

    No training must end at a bracket that a code page of Windows doesn't know.
    """
    for stream in (sys.stdout, sys.stderr, sys.stdin):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def printable(text: str) -> str:
    r"""`text` for a terminal: control characters are shown, as `\x1b`, and do nothing.

    Rows, answers, names and messages of errors are others' texts.
    """
    return CONTROL.sub(_shown, text.replace("\r\n", "\n"))


def _shown(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"


def markdown(text: str) -> str:
    """`text` for Markdown: no image is fetched, no link or tag made, no row of a table ended by it."""
    return MARKS.sub(lambda match: MARKS_WRITTEN.get(match[0], f"\\{match[0]}"), printable(" ".join(text.split())))


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def share_processor() -> None:
    """Choose how threads wait and how many there are; to be called before PyTorch is loaded.

    OpenMP's threads wait for each other by trying again and again, so that beside any other busy process a step takes
    several times as long. After so many tries they sleep here, which costs nothing where the machine is quiet
    (`benchmarks/neighbours.py`). Cores that others keep busy count as well: a thread fewer gains an eighth beside a
    neighbour at best, loses much when that ends, and rounds sums otherwise, so that no run could be repeated. What the
    user has set stays.
    """
    if "GOMP_SPINCOUNT" not in os.environ and "OMP_WAIT_POLICY" not in os.environ:
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
    cores = available_cores()
    if cores < (os.cpu_count() or 1):  # of a container or a job that was given some of the cores
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
            os.environ.setdefault(name, str(cores))


def available_cores() -> int:
    """Cores that this process may use: those it is bound to, and no more than its control group's share of time."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(bound, _time_share())))


def _time_share() -> float:
    """Cores' worth of time that the control group of this process may take; infinite without a limit."""
    with suppress(OSError, ValueError):
        quota, period = CGROUP_LIMIT.read_text(encoding="ascii").split()
        if quota != "max":
            return int(quota) / int(period)
    return math.inf


def private_libraries() -> None:
    """Have libraries report nothing and fetch no code; to be called before they are imported.

    With the package `kernels` installed, bitsandbytes and transformers would fetch compiled code from a hub.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("USE_HUB_KERNELS", "0")
    if not {"bitsandbytes", "kernels"} & sys.modules.keys():
        sys.modules["kernels"] = None  # type: ignore[assignment]  # as good as not installed


def quiet_libraries() -> None:
    """Our own log on stderr, and of the libraries what is at least an error."""
    private_libraries()
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Deprecations inside the libraries are for us to read, in the tests.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=r".*fan_in_fan_out.*")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)


# Steps by which a bar's own pace is told: the first ones are slower.
STEPS_TO_TELL = 5
# Seconds that are left of a bar -> what the rest of the run takes, in seconds; None outside of one.
_time_left: Callable[[float], float] | None = None


@contextmanager
def showing_time_left(seconds: Callable[[float], float]) -> Iterator[None]:
    """While the block runs, every progress bar shows the time left of the whole beside its own.

    Args:
        seconds: asked whenever a bar is drawn, and told the seconds that are left of that bar.
    """
    global _time_left  # noqa: PLW0603  bars are opened in many places, and there is one console
    before, _time_left = _time_left, seconds
    try:
        yield
    finally:
        _time_left = before


def progress_bar(title: str, total: int, unit: str, initial: int = 0) -> "tqdm[Any]":
    """A bar on stderr with the time left, of a run the whole run's too; in a log file a line every ten seconds at most.

    Args:
        title: in front of it; there is no bar for an empty one.
    """
    from tqdm import tqdm

    class Bar(tqdm):
        """With the time left of the whole run behind its own."""

        @property
        def format_dict(self) -> dict[str, Any]:
            shown: dict[str, Any] = super().format_dict
            if _time_left is not None:
                done = self.n - self.initial
                rate = shown["rate"] or done / max(shown["elapsed"], 1e-9)
                own = (self.total - self.n) / rate if done >= STEPS_TO_TELL and self.total and rate else 0.0
                left = f"whole run {duration_text(_time_left(own))} left"
                shown["postfix"] = ", ".join(filter(None, (shown.get("postfix"), left)))
            return shown

    return Bar(
        disable=not title,
        total=total,
        initial=initial,
        desc=title,
        unit=unit,
        file=sys.stderr,
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 10,
    )


def duration_text(seconds: float) -> str:
    """75 -> 1:15, 4000 -> 1:06:40."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def count_text(number: int) -> str:
    """1234567 -> 1.23M."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return str(number)


def bytes_text(number: int) -> str:
    """1234567 -> 1.23 MB."""
    for size, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number} B"
