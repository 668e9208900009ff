"""A ranked list for one viewer, with reasons that are true to the records."""

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from movielens.grounded import unfounded
from movielens.ratings import liked_by, titles
from movielens.records import catalogue
from workbench.errors import UserError
from workbench.run.folder import RunFolder
from workbench.run.tuned import load_tuned

RANK = "rank"
# Liked films whose records the model is shown for a reason: the latest that share most with the film.
SHOWN = 3


def recommend(run: Path, user: Path, *, method: str | None, top: int) -> list[dict[str, Any]]:
    """Rank all films but those that were liked, and say why.

    Args:
        run: folder of a finished run of `recipes/recommend.py` or the like.
        user: file with the liked titles.
        method: of the run; None takes its best.
        top: how many films.

    Returns:
        The likeliest first: `title`, `year`, `probability` among all films, `reason`, and whether it was `written`
        by the model.

    Raises:
        UserError: the run can't rank films, or a title is not known.
    """
    liked = read_liked(user)
    tuned = load_tuned(RunFolder.open(run), method)
    if tuned.recipe.inference_examples is None or RANK not in tuned.calibrations:
        raise UserError(f"{tuned.recipe.name} does not say how films are ranked: see `inference_examples`")
    among = [title for title in titles() if title not in liked]
    (asked,) = tuned.inference_examples({"id": "viewer", "liked": liked, "among": among})
    answers = tuned.rank([asked], "likelihood of titles")
    best = sorted(answers[0].choices.items(), key=lambda choice: -choice[1])[:top]
    films = [catalogue()[choice.strip()] for choice, _ in best]
    shown = [likest(film, [catalogue()[title] for title in liked]) for film in films]
    questions = [
        tuned.inference_examples({"id": str(number), "film": film, "liked": some})[0]
        for number, (film, some) in enumerate(zip(films, shown, strict=True))
    ]
    found = []
    for film, some, question, text, (_, log) in zip(
        films, shown, questions, tuned.write(questions, "reasons"), best, strict=True
    ):
        source = question.prompt[-1]["content"]
        true = bool(text) and film["title"].lower() in text.lower() and not unfounded(text, source)
        found.append(
            {
                "title": film["title"],
                "year": film["year"],
                "probability": round(math.exp(log), 6),
                "reason": text if true else in_common(film, some),
                "written": true,
            }
        )
    return found


def read_liked(file: Path) -> list[str]:
    """Titles in a file of lines or of JSON, as the catalogue writes them.

    Raises:
        UserError: the file names none, or one that is not known; the nearest are in the message.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not in UTF-8: {error.reason} at byte {error.start}") from error
    if text.lstrip().startswith("{"):
        try:
            given = json.loads(text).get("liked")
        except json.JSONDecodeError as error:
            raise UserError(f"{file}: not JSON: {error}") from error
        if not isinstance(given, list) or not all(isinstance(title, str) for title in given):
            raise UserError(f'{file} must hold {{"liked": ["title", ...]}}')
    else:
        given = [line.strip() for line in text.splitlines() if line.strip()]
    known = {title.lower(): title for title in titles()}
    for title in given:
        if title.lower() not in known:
            near = difflib.get_close_matches(title.lower(), known, n=3, cutoff=0.6)
            guess = (
                f"did you mean {' or '.join(known[one] for one in near)}?" if near else "MovieLens 100K ends with 1998"
            )
            raise UserError(f"{file}: no film {title!r} in the catalogue; {guess}")
    if not given:
        raise UserError(f"{file} names no film")
    return list(dict.fromkeys(known[title.lower()] for title in given))


def likest(film: Mapping[str, Any], liked: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The liked films that share most with `film`, the latest of equals."""
    order = sorted(range(len(liked)), key=lambda index: (-len(shared(film, liked[index])), -index))
    return [liked[index] for index in order[:SHOWN]]


def shared(film: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What two records have in common, in words, the most telling first."""
    found = []
    if film.get("director") and film["director"] == other.get("director"):
        found.append(f"directed by {film['director']}")
    if players := [name for name in film.get("cast", ()) if name in other.get("cast", ())]:
        found.append(f"with {' and '.join(players)}")
    if kinds := [kind for kind in film["genres"] if kind in other["genres"]]:
        found.append(f"{' and '.join(kinds)}")
    return found


def in_common(film: Mapping[str, Any], liked: Sequence[Mapping[str, Any]]) -> str:
    """A reason out of the records alone."""
    for other in liked:
        if found := shared(film, other):
            return f"Like {other['title']}: {', '.join(found)}."
    viewers = len(liked_by().get(film["title"], ()))
    return f"{' and '.join(film['genres'])}, liked by {viewers} viewers."
