"""One method with one seed: attach, train, save, evaluate, ship, prove."""

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from workbench import files
from workbench.data.render import Renderer
from workbench.errors import MethodError
from workbench.evaluation import (
    Calibration,
    ChoiceScorer,
    Metric,
    Prediction,
    Score,
    answer_all,
    find_metric,
    fit_calibration,
    score_all,
    write_predictions,
)
from workbench.export import FreshProcess, save_adapter
from workbench.methods import Method
from workbench.models import attach, bfloat16_is_fast, fast_evaluation, load_model, size
from workbench.run.prepare import Job
from workbench.run.resources import peak_memory
from workbench.run.ship import card, open_shipped, ship
from workbench.training import Trained, train

logger = logging.getLogger(__name__)

# So far the validation loss of what is shipped may be from that of what was trained before the user is warned: a
# share of it, and a difference in nats that roundings make.
LOSS_TOLERANCE = 0.05
SMALL_LOSS = 0.01
CALIBRATION_FILE = "choosing.json"
VALIDATION_FILE = "validation.jsonl"


def carry_method(
    job: Job, method: Method, seed: int, folder: Path, process: FreshProcess | None = None
) -> dict[str, Any]:
    """Carry one method through, into `folder`, and return its record for `results.json`.

    Args:
        process: in which exports are read, if one is open already.

    Raises:
        MethodError: the method could not be carried to its end.
        OSError: files could not be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The optimizer needs float32 for weights that it changes: a frozen base can be coarser, a trained one not.
    bits = 32 if method.trains_base else job.bits
    record: dict[str, Any] = {"method": method.name, "seed": seed, "bits": bits, "status": "done", "error": None}
    trained = None
    if method.trains:
        with peak_memory() as training_memory:
            trained, no_plain = _train(job, method, seed, folder, record)
    with peak_memory() as memory:
        if trained is None:
            model: nn.Module = load_model(job.checkpoint.path, job.bits if job.bits < 16 else 32)
        else:
            shipped = open_shipped(job, method, folder, plain=no_plain is None)
            model = shipped.model
            record.update(_saved_as_trained(method, shipped.loss, trained))
        answers, scores = _evaluate(job, method.name, model, folder, record)
    record["evaluation_peak_memory_bytes"] = memory.peak_bytes
    record["peak_memory_bytes"] = training_memory.peak_bytes if method.trains else memory.peak_bytes
    record["export"] = {
        "merged": False,
        "reason": None if method.trains else method.no_plain_checkpoint,
        "max_abs_logit_difference": None,
        "greedy_agreement": None,
    }
    if trained is None:
        record.update(trainable_parameters=0, total_parameters=size(model).total, train_seconds=0.0)
        record.update(train_tokens_per_second=None, learning_rate=None, adapter_bytes=0)
        return record
    notes = {}
    began = time.perf_counter()
    if no_plain is not None:
        record["export"]["reason"] = no_plain
    else:
        try:
            exported, renderer = ship(job, method, seed, folder / "merged", shipped, answers, scores, process)
        except (MethodError, ValueError, RuntimeError) as error:  # the training and its scores are no less worth
            exported, renderer = {"merged": False, "reason": f"{type(error).__name__}: {error}"}, job.renderer
        if "base" in exported:
            notes["Base of the merge"] = exported["base"]
        if not exported["merged"]:
            exported["reason"] += f"; what was trained is in {'trained' if method.trains_base else 'adapter'}/"
            logger.warning("%s: no merged checkpoint: %s", method.name, exported["reason"])
        elif renderer.tokenizer is not job.renderer.tokenizer:
            write_predictions(folder, _as_prompted(job, answers, renderer))
        record["export"] |= exported
    record["export_seconds"] = time.perf_counter() - began
    if not method.trains_base:
        readme = card(job, method, seed, scores, plain=False, notes=notes)
        files.write_text(folder / "adapter" / "README.md", readme)
    return record


def _evaluate(
    job: Job, name: str, model: nn.Module, folder: Path, record: dict[str, Any]
) -> tuple[list[Prediction], dict[str, Score]]:
    """Answer and score everything, record it, and leave the answers in `folder`."""
    began = time.perf_counter()
    with fast_evaluation(model):
        calibration, checked = calibrate(job, model, f"{name}: validation")
        most, title = job.recipe.max_new_tokens, f"{name}: answers"
        answers = answer_all(model, job.renderer, job.evaluated, most, title, calibration)
    scores = score_all(job.metrics, answers)
    record["evaluation_seconds"] = time.perf_counter() - began
    record["metrics"] = {label: asdict(score) for label, score in scores.items()}
    record["signatures"] = signatures(job.metrics, answers)
    if calibration:
        record["choosing"] = {task: chosen.summary() for task, chosen in calibration.items()}
        files.write_json(folder / CALIBRATION_FILE, {task: asdict(chosen) for task, chosen in calibration.items()})
        write_predictions(folder, checked, VALIDATION_FILE)
    write_predictions(folder, answers)
    return answers, scores


def signatures(metrics: Sequence[Metric], answers: Sequence[Prediction]) -> dict[str, str]:
    """How exactly each metric was computed, of those that apply to any of the answers."""
    return {metric.name: metric.signature(answers) for metric in metrics if any(map(metric.applies, answers))}


def calibrate(job: Job, model: nn.Module, title: str) -> tuple[dict[str, Calibration], list[Prediction]]:
    """How the likelihoods of choices become probabilities, by the headline metric on the validation split.

    Returns:
        That, by task, and the answers to the validation split so.
    """
    pairs = [pair for pair in job.pairs["validation"] if pair[0].choices]
    asked = [e for split in job.evaluated.values() for e, _ in split if e.choices]
    if not asked:
        return {}, []
    primary_metric = find_metric(job.recipe.primary_metric, job.metrics)

    def better(answers: Sequence[Prediction]) -> float:
        metric = primary_metric if all(map(primary_metric.applies, answers)) else find_metric("accuracy")
        return metric.value(answers) if metric.higher_is_better else -metric.value(answers)

    choices = [choice for example in [*asked, *(e for e, _ in pairs)] for choice in example.choices]
    return fit_calibration(ChoiceScorer(model, job.renderer, choices), pairs, asked, better, title)


def _as_prompted(job: Job, answers: Sequence[Prediction], renderer: Renderer) -> list[Prediction]:
    """The answers with the prompts that the plain checkpoint is given for the same text."""
    prompts = [renderer.prompt(example.prompt) for pairs in job.evaluated.values() for example, _ in pairs]
    return [replace(answer, prompt=prompt) for answer, prompt in zip(answers, prompts, strict=True)]


def clean_up(folder: Path, keep_weights: bool) -> None:
    """Remove what served an interruption that did not come; TensorBoard's logs stay.

    Args:
        keep_weights: leave `trained/`, the weights of `full`, since no merged checkpoint holds them.
    """
    leftovers = list(folder.glob("training/checkpoint-*"))
    if not keep_weights:
        leftovers.append(folder / "trained")
    for leftover in leftovers:
        shutil.rmtree(leftover, ignore_errors=True)
    for name in ("best.safetensors", "driver.safetensors", "finished.json"):
        (folder / "training" / name).unlink(missing_ok=True)


def _train(job: Job, method: Method, seed: int, folder: Path, record: dict[str, Any]) -> tuple[Trained, str | None]:
    """Train, save, and record it.

    Returns:
        How it went, and why there can be no plain checkpoint of it; None if there can.
    """
    base = load_model(job.checkpoint.path, record["bits"], training=True)
    model = attach(base, method, job.settings(method), job.typical_ids, seed, job.steps)
    no_plain = method.why_adapter_only(model)
    counted = size(model)
    rate = job.learning_rate(method)
    trained = train(
        model,
        job.renderer.tokenizer,
        job.rows,
        job.recipe.training,
        rate,
        autocast=job.bits < 32 and bfloat16_is_fast(),
        folder=folder / "training",
        seed=seed,
        title=method.name,
        driver=method.driver(model) if method.driver else None,
    )
    record.update(trainable_parameters=counted.trainable, total_parameters=counted.total)
    record.update(train_seconds=trained.seconds, train_tokens_per_second=trained.tokens_per_second)
    record.update(learning_rate=rate, steps=trained.steps, validation_loss=trained.validation_loss)
    record["curve"] = list(trained.curve)
    if method.trains_base:
        with files.whole_folder(folder / "trained") as aside:
            model.save_pretrained(aside, safe_serialization=True)  # type: ignore[operator]
        record["adapter_bytes"] = files.folder_bytes(folder / "trained")
    else:
        readme = card(job, method, seed, {}, plain=False)
        tokenizer = job.renderer.tokenizer
        record["adapter_bytes"] = save_adapter(model, tokenizer, folder / "adapter", job.recipe.checkpoint, readme)
    return trained, no_plain


def _saved_as_trained(method: Method, shipped: float, trained: Trained) -> dict[str, Any]:
    """Hold the loss of the saved model against that of the trained one: saving changes nothing, other bits little."""
    warning = None
    if not abs(shipped - trained.checked_loss) <= LOSS_TOLERANCE * trained.checked_loss + SMALL_LOSS:
        warning = (
            f"the validation loss of what was saved is {shipped:.3f}, of what was trained {trained.checked_loss:.3f}: "
            "the scores are of what was saved"
        )
        logger.warning("%s: %s", method.name, warning)
    return {
        "validation_loss_as_trained": trained.checked_loss,
        "validation_loss_as_shipped": shipped,
        "warning": warning,
    }
