"""Set finished runs beside each other: which entry is better, and is it luck?

python -m workbench.compare runs/finserve/monday runs/finserve/tuesday
python -m workbench.compare runs/finserve/monday --metric bleu
"""

import argparse
from dataclasses import replace
from pathlib import Path

from workbench.console import command, printable
from workbench.results import price

EPILOG = """\
examples:
  %(prog)s RUN                        the methods of one run, by its primary metric
  %(prog)s RUN OTHER                  every method of two runs, paired over the examples that both scored
  %(prog)s RUN OTHER --metric bleu --split test_unseen
  %(prog)s RUN OTHER --out compared   the same with report.html, report.md and results.json

Runs can be compared that were scored on the same rows by the same metric, computed in the same way; others are refused
with the reason. They may have other checkpoints, methods, seeds or settings: what they differ in is said. Where one
scored a part only (--minutes, --limit), the examples are taken that all have.

exit codes: 0 compared; 2 a mistake in what was asked for, or runs that can't be compared.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="workbench compare",
        description="Set finished runs beside each other: which entry is better, and is it luck?",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output folder of a run")
    p.add_argument("--metric", metavar="NAME", help="by which (default: the primary metric of the runs)")
    p.add_argument("--split", metavar="NAME", help="on which (default: the first evaluated split)")
    p.add_argument(
        "--price", metavar="PRICE", type=price,
        help='what an hour of the machine costs, such as "1.20 USD" (default: as it was stated to the first run)',
    )  # fmt: skip
    p.add_argument("--language", choices=("en", "zh"), default="en", help="of the report (default: en)")
    p.add_argument("--out", type=Path, metavar="DIR", help="write a report of it into a new folder")
    return p


@command(parser)
def main(arguments: argparse.Namespace) -> int:
    """Compare; return the exit code."""
    from workbench.compare import disturbed_text, pairs_table, table, write_report
    from workbench.compare.verdict import conclude
    from workbench.errors import UserError
    from workbench.results import Price, write_results
    from workbench.run.side_by_side import side_by_side

    out = arguments.out
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already: give a new folder with --out")
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"can't write to {out}: {error.strerror}") from error
    found = side_by_side(arguments.runs, metric=arguments.metric, split=arguments.split)
    if arguments.price:
        found = replace(found, results=replace(found.results, price=Price.of(arguments.price)))
    said = [conclude(found.results), disturbed_text(found.results), *found.remarks]
    parts = [table(found.results), pairs_table(found.results), "\n".join(filter(None, said))]
    print(printable("\n\n".join(filter(None, parts))))
    if out is not None:
        write_results(out / "results.json", found.results)
        runs = ", ".join(map(str, arguments.runs))
        about = " ".join([f"Compared: {runs}.", *found.remarks])
        write_report(out, found.results, found.answers, about, found.metrics, arguments.language)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
