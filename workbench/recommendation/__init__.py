"""Viewers and films: MovieLens 100K, the records of films, and what popularity and likeness make of them."""

from workbench.recommendation.movielens import Viewing, candidates, titles, viewings
from workbench.recommendation.neighbours import features, item_knn, popularity
from workbench.recommendation.records import catalogue, record

__all__ = [
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
