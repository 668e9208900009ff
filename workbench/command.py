"""What every entry point does alike: arguments, logging, exit codes."""

import argparse
import errno
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import wraps

from workbench.errors import UserError

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
            be_quiet()
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


def be_quiet() -> None:
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
