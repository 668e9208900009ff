"""What stands beside a language model's likelihood: popularity, likeness of audiences, likeness of genres."""

import math
from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np

from movielens.ratings import films, histories, liked_by
from workbench.data import Example
from workbench.evaluation.baselines import Guesses
from workbench.evaluation.calibration import log_softmax


def shown(example: Example) -> list[str]:
    """The titles in the prompt, one a line."""
    return example.prompt[-1]["content"].split("\n")


def popularity(train: Sequence[Example], validation: Sequence[Example], asked: Sequence[Example]) -> Guesses:
    """Baseline: the title that most viewers liked comes first. What the viewer liked doesn't count."""
    return _guesses(asked, [[log_popularity(choice) for choice in example.choices] for example in asked])


def log_popularity(choice: str) -> float:
    """Logarithm of the number of viewers who liked a title in training, plus a half."""
    return math.log(len(liked_by().get(choice.strip(), ())) + 0.5)


def item_knn(train: Sequence[Example], validation: Sequence[Example], asked: Sequence[Example]) -> Guesses:
    """Baseline: the title whose audience is likest to those of the titles shown (Sarwar et al. 2001)."""
    number, cosine = _likeness()
    scores = []
    for example in asked:
        liked = [number[title] for title in shown(example) if title in number]
        scores.append([float(cosine[number[choice.strip()], liked].sum()) for choice in example.choices])
    return _guesses(asked, scores)


@cache
def _likeness() -> tuple[dict[str, int], np.ndarray]:
    """Title -> its number, and the cosine of the audiences of every two titles, (titles, titles)."""
    number = {title: row for row, title in enumerate(liked_by())}
    column = {viewer: place for place, viewer in enumerate(histories()[0])}
    audience = np.zeros((len(number), len(column)), dtype=np.float32)
    for title, viewers in liked_by().items():
        audience[number[title], [column[viewer] for viewer in viewers]] = 1
    audience /= np.maximum(np.linalg.norm(audience, axis=1, keepdims=True), 1e-9)
    return number, audience @ audience.T


def features(example: Example) -> dict[str, list[float]]:
    """For a ranker: how popular each title is, and how far its genres are those of the titles shown."""
    liked = Counter(genre for title in shown(example) for genre in genres().get(title, ()))
    most = max(liked.values(), default=1)
    kinds = [genres().get(choice.strip(), ()) for choice in example.choices]
    return {
        "popularity": [log_popularity(choice) for choice in example.choices],
        "genres": [sum(liked[genre] for genre in kind) / most / max(1, len(kind)) for kind in kinds],
    }


@cache
def genres() -> dict[str, tuple[str, ...]]:
    """Title -> its genres."""
    return {film["title"]: tuple(film["genres"]) for film in films().values()}


def _guesses(asked: Sequence[Example], scores: Sequence[Sequence[float]]) -> Guesses:
    logs = [log_softmax(np.array(values)) for values in scores]
    return Guesses(
        log_probabilities=[
            dict(zip(example.choices, map(float, values), strict=True))
            for example, values in zip(asked, logs, strict=True)
        ]
    )
