"""Viewers and films: MovieLens 100K, the records of films, what popularity and likeness make of them, true reasons."""

from movielens.grounded import GROUNDED
from movielens.neighbours import features, item_knn, popularity
from movielens.ratings import Viewing, candidates, titles, viewings
from movielens.records import catalogue, record

__all__ = [
    "GROUNDED",
    "Viewing",
    "candidates",
    "catalogue",
    "features",
    "item_knn",
    "popularity",
    "record",
    "titles",
    "viewings",
]
