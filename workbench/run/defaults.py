"""What a recipe leaves out, found by looking at its data: how a row becomes examples, and what suits them."""

from dataclasses import replace
from typing import Any

from workbench.data.columns import ByColumns, looked_at, with_columns
from workbench.errors import UserError
from workbench.evaluation.baselines import tfidf
from workbench.recipe import NOTHING, Recipe
from workbench.results import DataInfo

CHOOSING = ("macro_f1", "accuracy")
WRITING = ("bleu", "chrf", "perplexity")


def completed(recipe: Recipe) -> Recipe:
    """The recipe with everything that it leaves out.

    Raises:
        UserError: the data don't tell, or don't have what the recipe names; or examples are made by a function of the
            recipe's own, and it names no metrics.
    """
    if recipe.row_to_examples is not None and not recipe.metrics:
        raise UserError("Recipe: metrics is empty: name some beside row_to_examples, such as ('bleu', 'perplexity')")
    return _with_metrics(looked_at(recipe))


def as_it_was(recipe: Recipe, data: DataInfo | None) -> Recipe:
    """The recipe as a run completed it, by the record of its data: the files may be gone by now."""
    if recipe.row_to_examples is not None:
        return recipe
    if data is not None and data.columns is not None:
        columns: dict[str, Any] = dict(data.columns)
        return _with_metrics(with_columns(recipe, ByColumns(**{**columns, "choices": tuple(columns["choices"])})))
    return completed(recipe)


def _with_metrics(recipe: Recipe) -> Recipe:
    chooses = isinstance(recipe.row_to_examples, ByColumns) and recipe.row_to_examples.label is not None
    if not recipe.metrics:
        metrics = CHOOSING if chooses else WRITING
        recipe = replace(recipe, metrics=metrics, primary_metric=recipe.primary_metric or metrics[0])
    if chooses and recipe.baselines is NOTHING:
        recipe = replace(recipe, baselines={"tfidf": tfidf})
    return recipe
