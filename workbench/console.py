"""What every command does alike: arguments, exit codes, progress bars, numbers as text."""

import argparse
import errno
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

from workbench.errors import UserError

if TYPE_CHECKING:
    from tqdm import tqdm

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


def command(
    parser: Callable[[], argparse.ArgumentParser], then: str = ""
) -> Callable[[Callable[[argparse.Namespace], int]], Callable[..., int]]:
    """Turn a function of parsed arguments into an entry point.

    The user's mistake is one line on stderr and exit code 2; a full disk is one line and 1; an interruption is
    130. Anything else is our bug, and shows its traceback.

    Args:
        then: added to what is said of a full disk or an interruption: how to go on.
    """

    def decorate(function: Callable[[argparse.Namespace], int]) -> Callable[..., int]:
        @wraps(function)
        def main(argv: Sequence[str] | None = None) -> int:
            arguments = parser().parse_args(argv)
            quiet_libraries()
            try:
                return function(arguments)
            except UserError as error:
                print(f"error: {error}", file=sys.stderr)
                return 2
            except BrokenPipeError:  # nobody reads stdout any more; Python would complain once more at its end
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return 1
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                where = f" while writing {error.filename}" if error.filename else ""
                print(f"error: the disk is full{where}; free some space{then}", file=sys.stderr)
                return 1
            except KeyboardInterrupt:
                print(f"\ninterrupted{then}", file=sys.stderr)
                return 130

        return main

    return decorate


def quiet_libraries() -> None:
    """Our own log on stderr, and of the libraries what is at least an error."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Deprecations inside the libraries are for us to read, in the tests.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=r".*fan_in_fan_out.*")
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)


def progress_bar(title: str, total: int, unit: str, initial: int = 0) -> "tqdm[Any]":
    """A bar on stderr with the time left; in a log file it prints a line every ten seconds at most.

    Args:
        title: in front of it; there is no bar for an empty one.
    """
    from tqdm import tqdm

    return tqdm(
        disable=not title,
        total=total,
        initial=initial,
        desc=title,
        unit=unit,
        file=sys.stderr,
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 10,
    )


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
