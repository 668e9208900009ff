"""What can go wrong, told apart by who has to act."""

import difflib
import re
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

# Places that a line about many of one kind names.
PLACES_SHOWN = 3
# Texts of one kind that are told apart; where there are more, the first stands for all.
TEXTS_SHOWN = 3
# What differs between problems of one kind: quoted values and figures.
PARTICULAR = re.compile(r"'[^']*'|\"[^\"]*\"|\d+")


# An absolute path, and its last part; in quotes it may have spaces. Addresses of the web are none.
PATH = re.compile(
    r"(?<=['\"])(?:[A-Za-z]:)?[/\\]+(?:[^/\\:'\"\n]+[/\\]+)+([^/\\:'\"\n]*)(?=['\"])"
    r"|(?<![\w.:/\\~])(?:[A-Za-z]:)?[/\\]+(?:[^\s/\\:'\"]+[/\\]+)+([^\s/\\:'\"]*)"
)


class UserError(Exception):
    """A mistake that the user can mend. Entry points print it in one line and exit with 2."""


class MethodError(Exception):
    """A method that could not be carried to its end. Recorded with its reason; the other methods go on."""


class Problem(NamedTuple):
    """What is wrong somewhere.

    Attributes:
        place: such as `faq.jsonl:17`, or the id of an example.
        text: what is wrong there.
    """

    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


def unknown(kind: str, value: str, allowed: Iterable[str]) -> UserError:
    """The error for a name that is none of `allowed`: the nearest ones first, then all of them."""
    names = sorted(allowed)
    near = difflib.get_close_matches(value, names, n=2, cutoff=0.5)
    guess = f"; did you mean {' or '.join(near)}?" if near else ";"
    return UserError(f"unknown {kind} {value!r}{guess} known: {', '.join(names)}")


def collected(what: str, problems: Sequence[str | Problem], most: int = 20, unit: str = "rows") -> UserError:
    """One error for all `problems`.

    Those of one kind in one file are one line, with their number and the first three places. Of one kind are texts
    that differ in figures, in quoted values and in what stands behind a colon.

    Args:
        most: lines that are shown.
        unit: what stands at a place.
    """
    kinds: dict[tuple[str, str], dict[str, list[str | Problem]]] = {}
    for problem in problems:
        if isinstance(problem, Problem):
            key = (_file(problem.place), PARTICULAR.sub("", problem.text).partition(":")[0])
            kinds.setdefault(key, {}).setdefault(problem.text, []).append(problem)
        else:
            kinds.setdefault(("", problem), {}).setdefault(problem, []).append(problem)
    lines: list[str] = []
    for texts in kinds.values():
        some = list(texts.values())
        lines += [_line(given, unit) for given in (some if len(some) <= TEXTS_SHOWN else [list(chain(*some))])]
    if len(lines) == 1:
        return UserError(f"{what}: {lines[0]}")
    shown = "\n  ".join(lines[:most])
    rest = f"\n  ... and {len(lines) - most} more of other kinds" if len(lines) > most else ""
    return UserError(f"{what}: {len(problems)} problems\n  {shown}{rest}")


def places_text(places: Sequence[str]) -> str:
    """The first places: `faq.jsonl:2, :3, :7, ...`."""
    shown = list(places[:PLACES_SHOWN])
    file = f"{_file(shown[0])}:" if _file(shown[0]) else ""
    rest = [place.removeprefix(file[:-1]) if file and place.startswith(file) else place for place in shown[1:]]
    return ", ".join([shown[0], *rest]) + ", ..." * (len(places) > PLACES_SHOWN)


def _file(place: str) -> str:
    """`faq.jsonl` of `faq.jsonl:17`; nothing of an id."""
    file, colon, number = place.rpartition(":")
    return file if colon and number.isdecimal() else ""


def _line(problems: Sequence[str | Problem], unit: str) -> str:
    """What is said of problems of one kind."""
    first = problems[0]
    if len(problems) == 1 or not isinstance(first, Problem):
        return str(first)
    known = [problem for problem in problems if isinstance(problem, Problem)]
    alike = all(problem.text == first.text for problem in known)
    such = "" if alike else ", the first"
    return f"{len(known)} {unit}{such}: {first.text} ({places_text([problem.place for problem in known])})"


def without_places(text: str) -> str:
    """A text for files that are shared: of every absolute path the last part only."""
    return PATH.sub(lambda match: match[1] or match[2] or "", text)
