"""Talk to a method of a finished run in the terminal.

python -m workbench.chat runs/finserve/2026-01-31-0900
python -m workbench.chat runs/finserve/2026-01-31-0900 --method lora --base
"""

import argparse
import sys
from pathlib import Path

from workbench.console import add_device_option, command

EPILOG = """\
examples:
  %(prog)s RUN                      its best method
  %(prog)s RUN --method houlsby     another
  %(prog)s RUN --base               side by side with the untuned base
  echo "Is a card free?" | %(prog)s RUN        one question a line, answers on stdout

while talking:
  /retrieve   show what stands before the conversation: the system message, and passages if the recipe finds any
  /new        begin a new conversation
  /quit       leave (or end of input)

Answers are decoded greedily, as in the run. The prompt is the recipe's own, see `inference_examples` there.

exit codes: 0 left; 2 a mistake in what was asked for; 130 interrupted.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="workbench chat",
        description="Talk to a method of a finished run in the terminal.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("run", type=Path, metavar="RUN", help="output folder of `workbench run`")
    p.add_argument("--method", metavar="NAME", help="a method of that run (default: its best)")
    add_device_option(p)
    p.add_argument("--base", action="store_true", help="let the untuned base answer, too")
    p.add_argument("--max-new-tokens", type=int, metavar="N", help="most tokens of an answer (default: the recipe's)")
    return p


@command(parser)
def main(arguments: argparse.Namespace) -> int:
    """Carry out what was asked for; return the exit code."""
    from workbench.device import choose
    from workbench.errors import UserError

    if arguments.max_new_tokens is not None and arguments.max_new_tokens < 1:
        raise UserError(f"--max-new-tokens {arguments.max_new_tokens} is less than 1")

    from workbench.chat.session import chat

    choose(arguments.device)
    chat(
        arguments.run,
        method=arguments.method,
        with_base=arguments.base,
        max_new_tokens=arguments.max_new_tokens,
        lines=sys.stdin,
        interactive=sys.stdin.isatty(),
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
