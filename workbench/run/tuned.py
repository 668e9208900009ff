"""A method of a finished run, ready to be used."""

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import nn

from workbench.data import Example
from workbench.data.labels import Labels
from workbench.data.render import classifying, make_renderer
from workbench.errors import UserError, unknown
from workbench.evaluation import Calibration, Prediction, choose
from workbench.evaluation.reranker import Reranker, reranked
from workbench.generation.classifier import Classifier
from workbench.generation.engine import LocalModel
from workbench.generation.language_model import Conversation, Generated
from workbench.generation.sampling import Sampling
from workbench.methods import find_method
from workbench.models import SHIPPED, load_model, load_tokenizer, precision_of
from workbench.recipe import CLASSES, LIKELIHOOD, Recipe
from workbench.results import Results, RunRecord
from workbench.run.defaults import as_it_was
from workbench.run.folder import RunFolder
from workbench.run.heads import Head
from workbench.run.manifest import require_unchanged
from workbench.run.method_trial import read_labels
from workbench.run.options import day_of
from workbench.run.saved import with_adapter
from workbench.run.scoring import read_calibrations
from workbench.sources import fetch_checkpoint


@dataclass(frozen=True, kw_only=True)
class TunedModel:
    """A tuned model as it ships, with all that is needed to ask it.

    Attributes:
        recipe: of the run.
        record: of `results.json`; None for the untuned base.
        language_model: the model itself; one with a head of classes writes nothing.
        calibrations: by task, how likelihoods of choices become probabilities.
        rerankers: by task, what puts likelihoods together with the recipe's features, where the run has fitted that.
    """

    recipe: Recipe
    record: RunRecord | None
    language_model: LocalModel | Classifier
    calibrations: Mapping[str, Calibration]
    rerankers: Mapping[str, Reranker] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the method; "base" without one."""
        return self.record.method if self.record else "base"

    def generate(self, messages: Conversation, sampling: Sampling | None = None) -> str:
        """The answer to a conversation; greedy, and as long as the recipe's answers, unless something else is said.

        Args:
            messages: `{"role", "content"}`, the last one the user's. They are given as they are: what the recipe
                puts before a question, such as passages, `inference_examples` adds, see `write`.
        """
        return self._written([messages], sampling, "")[0].text

    def stream(self, messages: Conversation, sampling: Sampling | None = None) -> Iterator[str]:
        """The same in pieces, as they are written."""
        return self.language_model.stream(messages, sampling or self._sampling())

    def classify(self, row: Mapping[str, Any]) -> dict[str, dict[str, float]]:
        """How likely each label of a new row is.

        Args:
            row: what the recipe's `inference_examples` asks of.

        Returns:
            Task -> label -> probability, the likeliest first.

        Raises:
            UserError: the recipe doesn't say how a new row is asked, or asks for no choice.
        """
        asked = [example for example in self.inference_examples(row) if example.choices]
        if not asked:
            raise UserError(f"{self.recipe.name} asks for no choice of such a row: use generate")
        return {
            example.task: dict(sorted(_probabilities(prediction).items(), key=lambda item: -item[1]))
            for example, prediction in zip(asked, self.choose(asked), strict=True)
        }

    def inference_examples(self, row: Mapping[str, Any]) -> list[Example]:
        """What is asked of a new row.

        Raises:
            UserError: the recipe doesn't say.
        """
        if self.recipe.inference_examples is None:
            raise UserError(f"{self.recipe.name} does not say how a new row is asked: see `inference_examples`")
        return list(self.recipe.inference_examples(row))

    def choose(
        self, examples: Sequence[Example], title: str = "", prune: bool = False, kept: Collection[str] = ()
    ) -> list[Prediction]:
        """Let the model choose; examples need no completion.

        Args:
            title: in front of a progress bar; none for an empty one.
            prune: of very many choices read only those that the likeliest and its probability hang on, and `kept`.
        """
        return choose(self.language_model, examples, self.calibrations, "", title, prune, kept)

    def rank(self, examples: Sequence[Example], title: str = "") -> list[Prediction]:
        """The same, the choices ranked anew by the run's reranker where it has one.

        Args:
            title: in front of a progress bar; none for an empty one.
        """
        features = self.recipe.features
        return [
            reranked(self.rerankers[example.task], [example], [prediction], features)[0]
            if features and example.task in self.rerankers
            else prediction
            for example, prediction in zip(examples, self.choose(examples, title), strict=True)
        ]

    def write(self, examples: Sequence[Example], title: str = "") -> list[str]:
        """Let the model write answers, greedily, of at most the recipe's `max_new_tokens`.

        Args:
            title: in front of a progress bar; none for an empty one.
        """
        prompts = [example.prompt for example in examples]
        return [answer.text for answer in self._written(prompts, None, title)]

    def _written(self, conversations: Sequence[Conversation], sampling: Sampling | None, title: str) -> list[Generated]:
        return self.language_model.generate(conversations, sampling or self._sampling(), title=title)

    def _sampling(self) -> Sampling:
        return Sampling(max_new_tokens=self.recipe.max_new_tokens)


def _probabilities(prediction: Prediction) -> dict[str, float]:
    return {choice: math.exp(log) for choice, log in prediction.choices.items()}


def load_tuned(folder: RunFolder, name: str | None = None, seed: int | None = None) -> TunedModel:
    """Open a method of a run.

    Args:
        name: of the method; None takes the best by the run's primary metric.
        seed: of several; None takes the first that is done.

    Raises:
        UserError: the run has no such method, it failed, or what it left was changed since.
    """
    results = folder.read_results()
    record = _record(results, name, seed)
    method = find_method(record.method_name)
    files = folder.trial(record.method, record.seed)
    require_unchanged(files, record)
    shipped = SHIPPED[folder.options.precision]
    bits = precision_of(method, record.bits, record.export.merged, shipped).scored_bits
    labels = read_labels(files)
    whole = files.trained if method.trains_base else None
    if files.merged.is_dir() and (labels is not None or not _has_new_words(files.merged)):
        whole = files.merged
    path = whole or _base_of(folder)
    head = _head(folder, results, record, path, labels)
    model: nn.Module = head.load(path, bits) if whole is None else head.load_tuned(path, bits)
    if whole is None and method.trains:
        model = with_adapter(model, files.adapter)
    return TunedModel(
        recipe=as_it_was(folder.recipe, results.data),
        record=record,
        language_model=head.language_model(model.eval()),
        calibrations=read_calibrations(files),
        rerankers=_rerankers(folder, results, record),
    )


def _head(folder: RunFolder, results: Results, record: RunRecord, path: Path, labels: Labels | None) -> Head:
    """The head that a record is of, its prompts rendered by the tokenizer in the folder `path`."""
    allow = folder.recipe.allow_control_tokens
    renderer = make_renderer(load_tokenizer(path), results.data.thinking, day_of(folder.options), allow)
    if labels is None:
        return Head(name=LIKELIHOOD, renderer=renderer)
    return Head(name=record.head or CLASSES, renderer=classifying(renderer), labels=labels)


def _rerankers(folder: RunFolder, results: Results, record: RunRecord) -> dict[str, Reranker]:
    """What ranks the choices of a method anew, by task."""
    for other in results.runs:
        if other.done and other.reranks == record.method and other.seed == record.seed:
            files = folder.trial(other.method, other.seed)
            require_unchanged(files, other)
            values = json.loads(files.reranker.read_text(encoding="utf-8"))
            return {task: Reranker(**weights) for task, weights in values.items()}
    return {}


def _base_of(folder: RunFolder) -> Path:
    """The folder of a run's base.

    Raises:
        UserError: it can't be had, or is another one now.
    """
    path = fetch_checkpoint(folder.options.model or folder.recipe.checkpoint).path
    folder.require_base(path)
    return path


def load_base(folder: RunFolder) -> TunedModel:
    """Open the untuned base of a run."""
    path = _base_of(folder)
    data = folder.read_results().data if folder.has_results else None
    thinking = data.thinking if data else bool(folder.recipe.enable_thinking)
    allow = folder.recipe.allow_control_tokens
    renderer = make_renderer(load_tokenizer(path), thinking, day_of(folder.options), allow)
    model = LocalModel(load_model(path, SHIPPED[folder.options.precision]).eval(), renderer)
    recipe = as_it_was(folder.recipe, data)
    return TunedModel(recipe=recipe, record=None, language_model=model, calibrations={})


def _has_new_words(merged: Path) -> bool:
    """Whether a soft prompt became words there, which only `generate` knows not to say: likelihoods would be others."""
    config = json.loads((merged / "generation_config.json").read_text(encoding="utf-8"))
    return bool(config.get("suppress_tokens"))


def _record(results: Results, name: str | None, seed: int | None) -> RunRecord:
    """The record of the method called `name`, or of the best one; of several seeds the first that is done."""
    runs = [record for record in results.runs if not record.baseline and seed in (None, record.seed)]
    if name is not None:
        some = [r for r in runs if r.method == name]
        if not some:
            raise unknown("method of this run", name, {r.method for r in runs})
        done = [r for r in some if r.done]
        if not done:
            raise UserError(f"{name} failed: {some[0].error}")
        return done[0]
    labels = [f"{results.headline}[{split}]" for split in results.evaluated_splits]
    done = [r for r in runs if r.done and any(label in r.metrics for label in labels)]
    if not done:
        raise UserError("the run has finished no method yet")
    label = next(label for label in labels if label in done[0].metrics)
    sign = 1 if results.metrics[results.headline].higher_is_better else -1
    means = {
        method: fmean(r.metrics[label].value for r in done if r.method == method)
        for method in dict.fromkeys(r.method for r in done)
    }
    best = max(means, key=lambda method: sign * means[method])
    return next(r for r in done if r.method == best)
