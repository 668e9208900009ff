"""Look at a data file and write a recipe to begin with.

python -m workbench.new reviews.csv
python -m workbench.new faq.xlsx --text Question --answer Reply --out recipes/faq.py
"""

import argparse
import re
import sys
from pathlib import Path

from workbench.console import command, printable

EPILOG = """\
examples:
  %(prog)s reviews.csv                                   writes reviews.py
  %(prog)s reviews.csv --text body --label stars         where the columns' names don't tell
  %(prog)s faq.xlsx --text Question --answer Reply --out recipes/faq.py

Then: python -m workbench.run reviews.py --check
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="workbench new",
        description="Look at a data file, say what it holds, and write a recipe that runs as it is.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("data", type=Path, help="a .csv, .jsonl, .json, .xlsx or .parquet file")
    p.add_argument("--out", type=Path, metavar="FILE", help="the recipe (default: the data's name with .py, here)")
    p.add_argument("--text", metavar="COLUMN", help="what is asked, or the text that has a label")
    p.add_argument("--label", metavar="COLUMN", help="the text's class, of which the model chooses one")
    p.add_argument("--answer", metavar="COLUMN", help="the answer that the model is to write")
    p.add_argument("--model", metavar="CHECKPOINT", help="the base (default: SmolLM2-135M-Instruct)")
    p.add_argument("--delimiter", metavar="SIGN", help="of a CSV file, where it is found wrongly")
    p.add_argument("--encoding", metavar="NAME", help="of a text file, where it is found wrongly")
    p.add_argument("--sheet", metavar="NAME", help="of an Excel file (default: the first with rows)")
    return p


@command(parser)
def main(arguments: argparse.Namespace) -> int:
    """Look and write; return the exit code."""
    from workbench.errors import UserError
    from workbench.files import write_text
    from workbench.new.look import look_at
    from workbench.new.written import recipe_text, report
    from workbench.sources import DataFile

    if arguments.label and arguments.answer:
        raise UserError("give --label or --answer: the model chooses, or it writes")
    out = arguments.out or Path(re.sub(r"\W+", "_", arguments.data.stem).strip("_") + ".py")
    if out.exists():
        raise UserError(f"{out} is there already: choose another --out")
    file = DataFile(
        str(arguments.data), delimiter=arguments.delimiter, encoding=arguments.encoding, sheet=arguments.sheet
    )
    look = look_at(file, arguments.text, arguments.label, arguments.answer)
    print(printable(report(look)))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, recipe_text(look, arguments.model))
    print(f"wrote {out}; next: python -m workbench.run {out} --check", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
