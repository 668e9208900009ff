"""What hangs on whether a model chooses by likelihood or by a head of classes: how it is loaded, trained and asked."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from workbench.data import Example, PreparedData
from workbench.data.labels import TRAINED, Labels, labels_of
from workbench.data.render import Renderer, classifying
from workbench.errors import UserError
from workbench.generation.classifier import Classifier
from workbench.generation.engine import LocalModel
from workbench.models import head_settings, load_classifier, load_model
from workbench.recipe import CLASSES, LIKELIHOOD, Recipe
from workbench.training import TrainingRows, find_objective, training_rows
from workbench.training.objectives import Objective
from workbench.training.objectives.classes import classes

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Head:
    """One of `workbench.recipe.HEADS`.

    Attributes:
        renderer: of its prompts; their text is the same with every head.
        labels: of the rows of a head of classes; None where a model chooses by likelihood.
        rows: what a training reads; None where nothing is trained for this head.
    """

    name: str
    renderer: Renderer
    labels: Labels | None = None
    rows: TrainingRows | None = None

    def load(
        self, path: Path, bits: int, *, seed: int = 0, training: bool = False, on_host: bool = False
    ) -> "PreTrainedModel":
        """A base, with a new head drawn from `seed` if it is to have one; see `workbench.models`."""
        if self.labels is None:
            return load_model(path, bits, training, on_host)
        pad_id = self.renderer.tokenizer.pad_token_id
        return load_classifier(path, bits, self.labels, pad_id, seed, training, on_host)

    def load_tuned(self, path: Path, bits: int) -> "PreTrainedModel":
        """A checkpoint of which every weight was trained or merged, the head's among them."""
        return load_model(path, bits) if self.labels is None else load_classifier(path, bits)

    def language_model(self, model: nn.Module) -> LocalModel | Classifier:
        """A model of this head, in evaluation mode, ready to be asked."""
        if self.labels is None:
            return LocalModel(model, self.renderer)
        return Classifier(model, self.renderer, self.labels)


def heads_of(recipe: Recipe, renderer: Renderer, data: PreparedData, path: Path) -> dict[str, Head]:
    """The heads of a recipe by name, and the one by which an untuned model is asked.

    Args:
        path: of the checkpoint.

    Raises:
        UserError: examples or an architecture that a head of classes can't be used with.
    """

    def rows_of(objective: Objective) -> TrainingRows:
        train, validation = (objective.examples(data.pairs[split]) for split in TRAINED)
        return training_rows(train, validation, data.store, data.content, objective=objective)

    found = {LIKELIHOOD: Head(name=LIKELIHOOD, renderer=renderer)}
    if LIKELIHOOD in recipe.heads:
        found[LIKELIHOOD] = replace(found[LIKELIHOOD], rows=rows_of(find_objective(recipe.training.objective)))
    if CLASSES in recipe.heads:
        renderer = classifying(renderer)
        labels = labels_of(_examples(recipe, data, renderer.tokenizer.pad_token_id))
        head_settings(path, labels, None)
        found[CLASSES] = Head(name=CLASSES, renderer=renderer, labels=labels, rows=rows_of(classes(labels)))
    return found


def _examples(recipe: Recipe, data: PreparedData, pad_id: int) -> Mapping[str, Iterator[Example]]:
    """The examples of every split, training first.

    Raises:
        UserError: a prompt ends with the padding token; it is raised while they are looked at.
    """

    def of(split: str) -> Iterator[Example]:
        for example, rendered in data.pairs[split]:
            if rendered.prompt_ids[-1] == pad_id:
                raise UserError(
                    f"head 'classes' reads the last token that is not padding, and the prompt of {example.id} ends "
                    "with the padding token: give the tokenizer another one in a local copy"
                )
            yield example

    return {split: of(split) for split in (*TRAINED, *recipe.evaluated_splits)}
