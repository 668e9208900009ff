"""MovieLens 100K (Harper and Konstan 2015), split by time.

Of each viewer's liked films the last is for testing, the one before it for validation, the rest for training. Its terms
allow research and other non-commercial use only.
"""

import csv
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from workbench.sources import fetch_file, package_file

LIKED_STARS = 4
HELD_OUT = {"validation": 2, "test": 1}
ARTICLES = ("The", "A", "An", "La", "Le", "Les", "L'", "Das", "Der", "Die", "El", "Il")


@dataclass(frozen=True, kw_only=True)
class Viewing:
    """A stretch of what a viewer liked, in the order of time, as titles.

    Attributes:
        before: liked before.
        after: liked then.
    """

    viewer: str
    before: Sequence[str]
    after: Sequence[str]


@cache
def films() -> dict[str, dict[str, Any]]:
    """Number of a film -> title, year (0 where it isn't known) and genres."""
    return {
        row[0]: {
            "title": usual(row[1]),
            "year": int(row[2]) if row[2].isdigit() else 0,
            "genres": row[3].replace("Children's", "Children").split(),
        }
        for row in _table("item")
        if row[1] != "unknown"
    }


@cache
def titles() -> tuple[str, ...]:
    """All titles, each once."""
    return tuple(dict.fromkeys(film["title"] for film in films().values()))


def usual(title: str) -> str:
    """'Usual Suspects, The (1995)' -> 'The Usual Suspects'."""
    title = title.partition(" (")[0].strip()
    for article in ARTICLES:
        if title.endswith(f", {article}"):
            return f"{article} {title.removesuffix(f', {article}')}".replace("' ", "'")
    return title


@cache
def histories() -> tuple[Mapping[str, Sequence[str]], Mapping[str, frozenset[str]]]:
    """Viewer -> titles liked (four stars or five), in the order of time; and viewer -> all titles rated."""
    liked: dict[str, dict[str, None]] = defaultdict(dict)
    rated: dict[str, set[str]] = defaultdict(set)
    for viewer, film, stars, _ in sorted(_table("inter"), key=lambda row: (float(row[3]), int(row[0]), int(row[1]))):
        if film not in films():
            continue
        title = films()[film]["title"]
        rated[viewer].add(title)
        if float(stars) >= LIKED_STARS:
            liked[viewer].setdefault(title)
    return {v: tuple(found) for v, found in liked.items()}, {v: frozenset(found) for v, found in rated.items()}


def trained(viewer: str) -> Sequence[str]:
    """What a viewer liked, as far as training sees it."""
    return histories()[0][viewer][: -max(HELD_OUT.values())]


@cache
def liked_by() -> Mapping[str, frozenset[str]]:
    """Title -> the viewers who liked it, as far as training sees."""
    found: dict[str, set[str]] = {title: set() for title in titles()}
    for viewer in histories()[0]:
        for title in trained(viewer):
            found[title].add(viewer)
    return {title: frozenset(viewers) for title, viewers in found.items()}


def viewings(shown: int, following: int, most: int) -> list[Viewing]:
    """For training: stretches of what viewers liked.

    Args:
        shown: titles before.
        following: titles after, at most.
        most: titles of each viewer, the latest ones, that come after some.
    """
    found = []
    for viewer in histories()[0]:
        liked = trained(viewer)[-most - shown :]
        for start in range(shown, len(liked), following):
            found.append(
                Viewing(viewer=viewer, before=liked[start - shown : start], after=liked[start : start + following])
            )
    return found


def candidates(split: str, viewers: int, shown: int, count: int, seed: int = 0) -> list[tuple[Viewing, list[str]]]:
    """For ranking: what a viewer liked next, among titles that this viewer has not rated.

    Args:
        split: "validation" or "test".
        viewers: how many, drawn from those who liked enough.
        shown: titles before.
        count: candidates, the one liked among them.

    Returns:
        Viewings with one title after, and its candidates.
    """
    liked, rated = histories()
    drawn = random.Random(f"{split} {seed}")
    enough = sorted((v for v, found in liked.items() if len(found) >= shown + max(HELD_OUT.values())), key=int)
    found = []
    for viewer in sorted(drawn.sample(enough, min(viewers, len(enough))), key=int):
        place = len(liked[viewer]) - HELD_OUT[split]
        answer = liked[viewer][place]
        among = drawn.sample([title for title in titles() if title not in rated[viewer]], count - 1)
        among.insert(drawn.randrange(count), answer)
        viewing = Viewing(viewer=viewer, before=liked[viewer][place - shown : place], after=[answer])
        found.append((viewing, among))
    return found


def _table(name: str) -> list[list[str]]:
    with fetch_file(package_file("recbole", f"ml-100k.{name}")).open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
