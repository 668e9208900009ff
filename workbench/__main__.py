"""`workbench NAME ...` is `python -m workbench.NAME ...`."""

import importlib
import sys

COMMANDS = {
    "new": "look at a data file and write a recipe to begin with",
    "run": "adapt a checkpoint with several methods, compare them, ship the result",
    "compare": "set finished runs beside each other: which entry is better, and is it luck?",
    "export": "make a plain checkpoint of a method of a finished run, and prove it",
    "chat": "talk to a tuned model in the terminal",
    "monitor": "watch a stream of texts with a tuned model, and tell when opinion turns",
}


def main() -> int:
    """Hand over to the entry point that the first argument names."""
    names = "\n".join(f"  {name:10}{summary}" for name, summary in COMMANDS.items())
    usage = f"usage: workbench COMMAND ...\n\ncommands:\n{names}\n\n`workbench COMMAND --help` says more."
    if len(sys.argv) > 1 and sys.argv[1] in COMMANDS:
        return int(importlib.import_module(f"workbench.{sys.argv[1]}.__main__").main(sys.argv[2:]))
    asked = len(sys.argv) > 1 and sys.argv[1] in ("-h", "--help")
    if not asked and len(sys.argv) > 1:
        from workbench.errors import unknown

        print(f"error: {unknown('command', sys.argv[1], COMMANDS)}", file=sys.stderr)
        return 2
    print(usage, file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


if __name__ == "__main__":
    raise SystemExit(main())
