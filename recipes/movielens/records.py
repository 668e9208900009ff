"""Records of films: who made them, who plays, how long they are."""

import sqlite3
from collections import defaultdict
from collections.abc import Mapping
from contextlib import closing
from functools import cache
from typing import Any

from movielens.ratings import films
from workbench.sources import fetch_file, package_file

COLUMNS = 'Title, Year, Runtime, Genre, Director, "Cast", Country, Language, Awards'


def record(film: Mapping[str, Any]) -> str:
    """What is known of a film, in a line.

    Args:
        film: `title`, `year`, `genres`, and what there is of `director`, `cast`, `runtime` (minutes), `country`,
            `language`, `awards` and `plot`.
    """
    parts = [f"{film['title']} ({film['year']})" if film["year"] else film["title"], ", ".join(film["genres"])]
    parts += [f"by {film['director']}"] if film.get("director") else []
    parts += [f"with {', '.join(film['cast'][:3])}"] if film.get("cast") else []
    parts += [f"{film['runtime']} minutes"] if film.get("runtime") else []
    parts += [film[name] for name in ("country", "language", "awards", "plot") if film.get(name)]
    return "; ".join(parts)


@cache
def catalogue() -> dict[str, dict[str, Any]]:
    """Title of a MovieLens film -> its record, by title and year, which may be one off.

    A film that the records (CC0) don't have keeps what MovieLens says of it.
    """
    known = defaultdict(list)
    with closing(sqlite3.connect(f"file:{fetch_file(package_file('bokeh-sampledata'))}?mode=ro", uri=True)) as database:
        for row in database.execute(f"SELECT {COLUMNS} FROM omdb"):
            title, year, runtime, genre, director, cast, country, language, awards = row
            known[title.lower()].append(
                {
                    "title": title,
                    "year": int(year),
                    "genres": _listed(genre, 3),
                    "director": ", ".join(_listed(director, 2)),
                    "cast": _listed(cast, 3),
                    "runtime": int(runtime) if runtime else None,
                    "country": ", ".join(_listed(country, 2)),
                    "language": ", ".join(_listed(language, 1)),
                    "awards": (awards or "").partition(".")[0],
                }
            )
    found = {}
    for film in films().values():
        near = [one for one in known[film["title"].lower()] if abs(one["year"] - film["year"]) <= 1]
        found[film["title"]] = {**film, **(near[0] if near else {}), "genres": film["genres"], "year": film["year"]}
    return found


def _listed(text: str | None, most: int) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()][:most]
