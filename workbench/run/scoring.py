"""What a model of a run says to everything that is asked, and what that scores."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from workbench import files
from workbench.evaluation import (
    Calibration,
    Metric,
    Prediction,
    find_metric,
    fit_calibrations,
    predict,
    score_all,
    write_predictions,
)
from workbench.generation.language_model import LanguageModel
from workbench.generation.sampling import Sampling
from workbench.models import fast_evaluation
from workbench.results import Changes, Score
from workbench.run.changes import changes_of
from workbench.run.folder import TrialFolder
from workbench.run.prepare import Job


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What a model said to everything that is asked, and what that scores.

    Attributes:
        signatures: metric -> how exactly it was computed.
        choosing: task -> how likelihoods of choices became probabilities.
        changes: what else is another in it.
        seconds: that all of it took.
        seconds_per_1000_texts: that 1,000 answers took, without calibrating.
    """

    predictions: Sequence[Prediction]
    scores: Mapping[str, Score]
    signatures: Mapping[str, str]
    choosing: Mapping[str, Mapping[str, Any]]
    changes: Changes
    seconds: float
    seconds_per_1000_texts: float


def evaluate(job: Job, name: str, model: nn.Module, folder: TrialFolder) -> Evaluated:
    """Let a model answer everything, score it, and leave predictions and calibrations in `folder`."""
    began = time.perf_counter()
    local = job.head.language_model(model)
    with fast_evaluation(model):
        # A head of classes reads all of them at once.
        prune = may_prune(job) and job.head.labels is None
        calibrations, checked = calibrate(job, local, f"{name}: validation", prune)
        asked = time.perf_counter()
        examples = {split: [example for example, _ in pairs] for split, pairs in job.evaluated.items()}
        predictions = predict(
            local,
            examples,
            Sampling(max_new_tokens=job.recipe.max_new_tokens),
            f"{name}: answers",
            calibrations,
            prune,
        )
        answering = time.perf_counter() - asked
        changes = changes_of(job, model)
    scores = score_all(job.metrics, predictions, job.recipe.report_groups)
    seconds = time.perf_counter() - began
    if calibrations:
        write_calibrations(folder, calibrations)
        write_predictions(folder.path, checked, folder.VALIDATION)
    write_predictions(folder.path, predictions)
    return Evaluated(
        predictions=predictions,
        scores=scores,
        signatures=signatures(job.metrics, predictions),
        choosing={task: calibration.summary() for task, calibration in calibrations.items()},
        changes=changes,
        seconds=seconds,
        seconds_per_1000_texts=1000 * answering / max(1, len(predictions)),
    )


def may_prune(job: Job) -> bool:
    """Whether nothing hangs on choices that are neither the likeliest nor the right one: no metric, and no reranker."""
    if job.recipe.features is not None:
        return False
    chosen = [
        Prediction.of_reference(example, split)
        for split, pairs in job.evaluated.items()
        for example, _ in pairs
        if example.choices
    ]
    return not any(metric.needs_all_choices and any(map(metric.applies, chosen)) for metric in job.metrics)


def calibrate(
    job: Job, model: LanguageModel, title: str, prune: bool = False
) -> tuple[dict[str, Calibration], list[Prediction]]:
    """How the likelihoods of choices become probabilities, by the primary metric on the validation split.

    Returns:
        That, by task, and the predictions for the validation split so.
    """
    asked = [example for example in job.evaluated_examples if example.choices]
    if not asked:
        return {}, []

    def better(predictions: Sequence[Prediction]) -> float:
        metric = job.primary_metric
        if not all(map(metric.applies, predictions)):
            metric = find_metric("accuracy")
        return metric.value(predictions) if metric.higher_is_better else -metric.value(predictions)

    validation = [example for example, _ in job.pairs["validation"] if example.choices]
    return fit_calibrations(model, validation, asked, better, title, prune)


def write_calibrations(folder: TrialFolder, calibrations: Mapping[str, Calibration]) -> None:
    """Leave calibrations in the folder of a trial."""
    files.write_json(folder.calibration, {task: asdict(calibration) for task, calibration in calibrations.items()})


def read_calibrations(folder: TrialFolder) -> dict[str, Calibration]:
    """The calibrations that a trial left, by task; none where it asks for no choices."""
    with suppress(FileNotFoundError):
        found = json.loads(folder.calibration.read_text(encoding="utf-8"))
        return {task: Calibration(**values) for task, values in found.items()}
    return {}


def signatures(metrics: Sequence[Metric], predictions: Sequence[Prediction]) -> dict[str, str]:
    """How exactly each metric was computed, of those that apply to any of the predictions."""
    return {metric.name: metric.signature(predictions) for metric in metrics if any(map(metric.applies, predictions))}
