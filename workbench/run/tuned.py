"""A method of a finished run, ready to be used."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import nn

from workbench.data import Example
from workbench.data.render import Rendered, Renderer, make_renderer
from workbench.errors import UserError, unknown
from workbench.evaluation import Calibration, ChoiceScorer, Prediction, answer_all, find_metric
from workbench.methods import find_method
from workbench.models import load_model, load_tokenizer
from workbench.recipe import Recipe, load_recipe
from workbench.run.job import Options, folder_of, read_results
from workbench.run.ship import with_adapter
from workbench.run.trial import CALIBRATION_FILE
from workbench.sources import fetch_checkpoint


@dataclass(frozen=True, kw_only=True)
class TunedModel:
    """A tuned model as it ships, with all that is needed to ask it.

    Attributes:
        record: of `results.json`.
        choosing: by task, how likelihoods of choices become probabilities.
        chooser: the model as one that chooses.
    """

    recipe: Recipe
    record: dict[str, Any]
    model: nn.Module
    renderer: Renderer
    calibration: dict[str, Calibration]
    scorer: ChoiceScorer

    def choose(self, examples: Sequence[Example], title: str = "") -> list[Prediction]:
        """Let the model choose; examples need no completion.

        Args:
            title: in front of a progress bar; none for an empty one.
        """
        return self.scorer.choose("", self._rendered(examples), self.calibration, title)

    def write(self, examples: Sequence[Example], title: str = "") -> list[str]:
        """Let the model write answers, greedily, of at most the recipe's `max_new_tokens`.

        Args:
            title: in front of a progress bar; none for an empty one.
        """
        pairs, most = {"": self._rendered(examples)}, self.recipe.max_new_tokens
        return [answer.prediction for answer in answer_all(self.model, self.renderer, pairs, most, title)]

    def _rendered(self, examples: Sequence[Example]) -> list[tuple[Example, Rendered]]:
        """Examples with their tokens; the end of the turn stands for an answer that isn't known."""
        return [(example, self._tokens(example)) for example in examples]

    def _tokens(self, example: Example) -> Rendered:
        if example.completion:
            return self.renderer.render(example)
        text = self.renderer.prompt(example.prompt)
        return Rendered(
            id=example.id,
            text=text,
            prompt_ids=self.renderer.tokens(text),
            completion_ids=[self.renderer.end_of_turn],
        )


def load_tuned(run: Path, options: Options, name: str | None = None) -> TunedModel:
    """Open a method of the run in the folder `run`.

    Args:
        options: with which the run was made.
        name: of the method; None takes the best by the run's headline metric.

    Raises:
        UserError: the run has no such method, or it failed.
    """
    results = read_results(run)
    recipe = load_recipe(Path(options.recipe))
    record = _record(results, name, recipe.metrics)
    folder = folder_of(run, options, record["method"], record["seed"])
    method = find_method(record["method"])
    merged = folder / "merged"
    model: nn.Module
    if merged.is_dir() and not _has_new_words(merged):
        path = merged
        model = load_model(path, 32)
    elif method.trains_base:
        path = folder / "trained"
        model = load_model(path, 32)
    else:
        path = fetch_checkpoint(options.model or recipe.checkpoint).path
        bits = record["bits"] if record["bits"] < 16 and not record["export"]["merged"] else 32
        model = load_model(path, bits)
        if method.trains:
            if not (folder / "adapter").is_dir():
                raise UserError(f"{folder} holds neither merged/ nor adapter/: there is nothing to open")
            model = with_adapter(model, folder)
    chosen = folder / CALIBRATION_FILE
    found = json.loads(chosen.read_text(encoding="utf-8")) if chosen.is_file() else {}
    renderer = make_renderer(load_tokenizer(path))
    return TunedModel(
        recipe=recipe,
        record=record,
        model=model.eval(),
        renderer=renderer,
        scorer=ChoiceScorer(model, renderer),
        calibration={task: Calibration(**values) for task, values in found.items()},
    )


def _has_new_words(merged: Path) -> bool:
    """Whether a soft prompt became words there, which only `generate` knows not to say: likelihoods would be others."""
    config = json.loads((merged / "generation_config.json").read_text(encoding="utf-8"))
    return bool(config.get("suppress_tokens"))


def open_base(options: Options) -> TunedModel:
    """Open the untuned base of a run."""
    recipe = load_recipe(Path(options.recipe))
    path = fetch_checkpoint(options.model or recipe.checkpoint).path
    model, renderer = load_model(path, 32).eval(), make_renderer(load_tokenizer(path))
    return TunedModel(
        recipe=recipe, record={}, model=model, renderer=renderer, calibration={}, scorer=ChoiceScorer(model, renderer)
    )


def _record(results: dict[str, Any], name: str | None, metrics: Sequence[Any]) -> dict[str, Any]:
    """The record of the method called `name`, or of the best one; of several seeds the first that is done."""
    runs = [record for record in results["runs"] if not record.get("baseline")]
    if name is not None:
        some = [r for r in runs if r["method"] == name]
        if not some:
            raise unknown("method of this run", name, {r["method"] for r in runs})
        done = [r for r in some if r["status"] == "done"]
        if not done:
            raise UserError(f"{name} failed: {some[0]['error']}")
        return dict(done[0])
    metric = find_metric(results["headline"], metrics)
    labels = [f"{metric.name}[{split}]" for split in results["evaluated_splits"]]
    done = [r for r in runs if r["status"] == "done" and any(label in r["metrics"] for label in labels)]
    if not done:
        raise UserError("the run has finished no method yet")
    label = next(label for label in labels if label in done[0]["metrics"])
    sign = 1 if metric.higher_is_better else -1
    means = {
        method: fmean(r["metrics"][label]["value"] for r in done if r["method"] == method)
        for method in dict.fromkeys(r["method"] for r in done)
    }
    best = max(means, key=lambda method: sign * means[method])
    return dict(next(r for r in done if r["method"] == best))
