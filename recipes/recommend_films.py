"""Rank films for a viewer with a tuned model, and give a reason for each.

python recipes/recommend_films.py runs/recommend/2026-01-31-0900 --user liked.txt
"""

import argparse
from pathlib import Path

from workbench.console import command

EPILOG = """\
examples:
  %(prog)s RUN --user liked.txt
  %(prog)s RUN --user liked.txt --top 10 --json > list.json

The file names films that the viewer liked, one title a line, the latest last; or it is JSON: {"liked": ["Fargo", ...]}.

All films of MovieLens 100K but these are ranked by the likelihood of their titles, put together with popularity and
genres as the run's ranker learned it. The model writes the reason. A text that names a number, a name or a genre which
the film's record doesn't hold is not shown; what the record has in common with the liked films is said instead.

MovieLens data may be used for research and other non-commercial purposes only.

exit codes: 0 done; 2 a mistake in what was asked for.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python recipes/recommend_films.py",
        description="Rank films for a viewer with a tuned model, and give a reason for each.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("run", type=Path, metavar="RUN", help="output folder of a run of recipes/recommend.py")
    p.add_argument("--user", type=Path, required=True, metavar="FILE", help="titles that the viewer liked")
    p.add_argument("--method", metavar="NAME", help="a method of that run (default: its best)")
    p.add_argument("--top", type=int, default=5, metavar="N", help="how many films (default: 5)")
    p.add_argument("--json", action="store_true", help="a JSON object a line instead of text")
    return p


@command(parser)
def main(arguments: argparse.Namespace) -> int:
    """Carry out what was asked for; return the exit code."""
    import json

    from workbench.errors import UserError

    if arguments.top < 1:
        raise UserError(f"--top {arguments.top} is less than 1")
    if not arguments.user.is_file():
        raise UserError(f"no file at {arguments.user}")

    from movielens.ranking import recommend

    for place, one in enumerate(
        recommend(arguments.run, arguments.user, method=arguments.method, top=arguments.top), 1
    ):
        if arguments.json:
            print(json.dumps(one, ensure_ascii=False))
        else:
            print(f"{place}. {one['title']} ({one['year']})\n   {one['reason']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
