"""A method carried through with one seed: attached, trained, saved, scored, merged, proven."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from transformers import TrainerCallback

from workbench import files
from workbench.data.labels import Labels
from workbench.data.render import Renderer
from workbench.errors import MethodError, without_places
from workbench.evaluation import Prediction, write_predictions
from workbench.export import FreshProcess, rank_for_vllm, save_adapter, why_not_served
from workbench.methods import Mergeability, Method, NotMergeable
from workbench.models import Size, computing_dtype, size
from workbench.processes import together
from workbench.results import DONE, ExportRecord, RunRecord
from workbench.run.cards import card, threshold_note
from workbench.run.clock import EVALUATION, EXPORT, TRAINING, RunClock
from workbench.run.folder import TrialFolder
from workbench.run.merge import merge
from workbench.run.method_training import MethodTraining, in_smaller_parts
from workbench.run.prepare import Job
from workbench.run.resources import Watched, watched
from workbench.run.saved import SavedModel, open_saved
from workbench.run.scoring import Evaluated, evaluate
from workbench.run.tracked import tracking
from workbench.sources import public_name
from workbench.training import Limit, Told, Trained

logger = logging.getLogger(__name__)

# So far the validation loss of what is shipped may be from that of what was trained before the user is warned: a
# share of it, and a difference in nats that roundings make.
LOSS_TOLERANCE = 0.05
SMALL_LOSS = 0.01


def run_method(
    job: Job,
    method: Method,
    seed: int,
    settings: Mapping[str, Any],
    folder: TrialFolder,
    process: FreshProcess | None = None,
    clock: RunClock | None = None,
    *,
    exports: bool = True,
) -> RunRecord:
    """Carry one method through, with the head that the job is looked at for.

    Args:
        settings: before those of the recipe; `learning_rate` is one of them.
        process: in which exports are read, if one is open already.
        clock: of the run that this is a part of.
        exports: whether what can become a merged checkpoint does.

    Raises:
        MethodError: the method could not be carried to its end.
        OSError: files could not be written.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    clock, name = clock or RunClock(), job.name_of(method)
    if not method.trains:
        with clock.stage(name, seed, EVALUATION):
            return _run_untuned(job, method, seed, folder)
    if job.head.labels is not None:
        write_labels(folder, job.head.labels)
    with tracking(job, method, seed, settings, folder) as told:
        with clock.stage(name, seed, TRAINING), watched() as training:
            fitted = _fit(job, method, seed, settings, folder, clock.limit(), [Told(told)])
            if fitted.trained.stopped_at is not None:
                clock.stopped_at(fitted.trained.stopped_at)
        with clock.stage(name, seed, EVALUATION), watched() as scoring:
            saved = open_saved(job, method, folder, fitted.mergeability)
            warning = _warning(name, saved.loss, fitted.trained)
            evaluated = evaluate(job, name, saved.model, folder)
        told.scores = evaluated.scores
    began = time.perf_counter()
    with clock.stage(name, seed, EXPORT):
        mergeability = fitted.mergeability if exports else NotMergeable("it was trained to be scored alone")
        export = _export(job, method, seed, mergeability, saved, evaluated, folder, process)
    seconds = time.perf_counter() - began
    return _record(
        job,
        method,
        seed,
        fitted,
        evaluated,
        export=export,
        export_seconds=seconds,
        training=training,
        evaluation=scoring,
        shipped_loss=saved.loss,
        warning=warning,
    )


def _record(
    job: Job,
    method: Method,
    seed: int,
    fitted: "_Fitted",
    evaluated: Evaluated,
    *,
    export: ExportRecord,
    export_seconds: float,
    training: Watched,
    evaluation: Watched,
    shipped_loss: float,
    warning: str | None,
) -> RunRecord:
    """Of a method that was trained, scored and exported."""
    trained, name = fitted.trained, job.name_of(method)
    return RunRecord(
        method=name,
        head=None if job.head.labels is None else job.head.name,
        tuned_by=None if name == method.name else method.name,
        seed=seed,
        bits=job.precision(method).trained_bits,
        precision=job.shipped_in,
        status=DONE,
        metrics=evaluated.scores,
        signatures=evaluated.signatures,
        trainable_parameters=fitted.size.trainable,
        total_parameters=fitted.size.total,
        train_seconds=trained.seconds,
        resumed=trained.resumed,
        evaluation_seconds=evaluated.seconds,
        seconds_per_1000_texts=evaluated.seconds_per_1000_texts,
        export_seconds=export_seconds,
        train_tokens_per_second=trained.tokens_per_second,
        peak_memory_bytes=training.peak_bytes,
        evaluation_peak_memory_bytes=evaluation.peak_bytes,
        training_usage=training.usage,
        evaluation_usage=evaluation.usage,
        adapter_bytes=fitted.saved_bytes,
        learning_rate=trained.learning_rate,
        steps=trained.steps,
        validation_loss=trained.validation_loss,
        validation_loss_as_trained=trained.checked_loss,
        validation_loss_as_shipped=shipped_loss,
        warning=warning,
        curve=trained.curve,
        choosing=evaluated.choosing,
        changes=evaluated.changes,
        export=export,
    )


def _export(
    job: Job,
    method: Method,
    seed: int,
    mergeability: Mergeability,
    saved: SavedModel,
    evaluated: Evaluated,
    folder: TrialFolder,
    process: FreshProcess | None,
) -> ExportRecord:
    """Make a merged checkpoint if there can be one, and the README of the adapter."""
    export = ExportRecord(merged=False)
    if isinstance(mergeability, NotMergeable):
        export = replace(export, reason=mergeability.reason)
    else:
        try:
            export, renderer = merge(
                job, method, seed, folder.merged, saved, job.evaluated_examples, evaluated.predictions,
                evaluated.scores, process, choosing=evaluated.choosing,
                precision=computing_dtype(job.shipped_bits),
            )  # fmt: skip
        except (MethodError, ValueError, RuntimeError) as error:  # the training and its scores are no less worth
            reason = without_places(f"{type(error).__name__}: {error}")
            export, renderer = replace(export, reason=reason), job.renderer
        if not export.merged:
            what = "trained" if method.trains_base else "adapter"
            export = replace(export, reason=f"{export.reason}; what was trained is in {what}/")
            logger.warning("%s: no merged checkpoint: %s", job.name_of(method), export.reason)
        elif renderer.tokenizer is not job.renderer.tokenizer:
            write_predictions(folder.path, _as_prompted(job, evaluated, renderer))
    if not method.trains_base:
        notes = {
            **({"Base of the merge": export.base} if export.base else {}),
            **threshold_note(evaluated.choosing),
            "Servers that add a LoRA to their base (vLLM, llama.cpp)": _served(folder),
        }
        readme = card(job, method, seed, evaluated.scores, merged=False, notes=notes)
        files.write_text(folder.adapter / "README.md", readme)
    return export


def _served(folder: TrialFolder) -> str:
    """Whether a server can run the adapter as it is."""
    reason = why_not_served(folder.adapter)
    if reason:
        return f"can't take it: {reason}"
    rank = f"; vLLM with `--max-lora-rank {rank_for_vllm(folder.adapter)}`"
    return f"can take it, where they know the architecture of its base{rank}"


def _run_untuned(job: Job, method: Method, seed: int, folder: TrialFolder) -> RunRecord:
    """Score the checkpoint as it is."""
    mergeability = job.mergeability[method.name]
    assert isinstance(mergeability, NotMergeable)
    precision = job.precision(method)
    with watched() as memory:
        model = job.head.load(job.checkpoint.path, precision.scored_bits)
        evaluated = evaluate(job, method.name, model, folder)
    return RunRecord(
        method=method.name,
        seed=seed,
        fixed=True,
        bits=precision.trained_bits,
        precision=job.shipped_in,
        status=DONE,
        metrics=evaluated.scores,
        signatures=evaluated.signatures,
        trainable_parameters=0,
        total_parameters=size(model).total,
        train_seconds=0.0,
        evaluation_seconds=evaluated.seconds,
        seconds_per_1000_texts=evaluated.seconds_per_1000_texts,
        peak_memory_bytes=memory.peak_bytes,
        evaluation_peak_memory_bytes=memory.peak_bytes,
        evaluation_usage=memory.usage,
        adapter_bytes=0,
        choosing=evaluated.choosing,
        changes=evaluated.changes,
        export=ExportRecord(merged=False, reason=mergeability.reason),
    )


@dataclass(frozen=True, kw_only=True)
class _Fitted:
    """What came of a training: how it went, how large the model is, and whether it can become a merged checkpoint."""

    trained: Trained
    size: Size
    mergeability: Mergeability
    saved_bytes: int


def _fit(
    job: Job,
    method: Method,
    seed: int,
    settings: Mapping[str, Any],
    folder: TrialFolder,
    limit: Limit,
    callbacks: Sequence[TrainerCallback] = (),
) -> _Fitted:
    """Attach, train and save; where memory is short, with fewer rows at once.

    Args:
        limit: what ends the training before its last step.
    """
    training = MethodTraining(job=job, method=method, seed=seed, settings=settings, folder=folder.training)
    return in_smaller_parts(training, lambda one: _train_and_save(one, folder, limit, callbacks))


def _train_and_save(
    training: MethodTraining, folder: TrialFolder, limit: Limit, callbacks: Sequence[TrainerCallback]
) -> _Fitted:
    job, method, seed = training.job, training.method, training.seed
    with together():
        model = training.attached()
        mergeability = method.mergeability(model)
        counted = size(model)
    trained = training.trained(model, limit, callbacks)
    if method.trains_base:
        with files.whole_folder(folder.trained) as aside:
            model.save_pretrained(aside, safe_serialization=True)  # type: ignore[operator]
        saved_bytes = files.folder_bytes(folder.trained)
    else:
        readme = card(job, method, seed, {}, merged=False)
        named = public_name(job.recipe.checkpoint)
        saved_bytes = save_adapter(model, job.renderer.tokenizer, folder.adapter, named, readme)
    return _Fitted(trained=trained, size=counted, mergeability=mergeability, saved_bytes=saved_bytes)


def _warning(name: str, shipped: float, trained: Trained) -> str | None:
    """What a reader of the scores should know.

    The loss of the saved model is held against that of the trained one: saving changes nothing, other bits little.
    """
    warnings = [trained.warning] if trained.warning else []
    if abs(shipped - trained.checked_loss) > LOSS_TOLERANCE * trained.checked_loss + SMALL_LOSS:
        warnings.append(
            f"the validation loss of what was saved is {shipped:.3f}, of what was trained {trained.checked_loss:.3f}: "
            "the scores are of what was saved"
        )
    for warning in warnings:
        logger.warning("%s: %s", name, warning)
    return "; ".join(warnings) or None


def write_labels(folder: TrialFolder, labels: Labels) -> None:
    """Leave what the rows of a head stand for in the folder of a trial."""
    files.write_json(folder.labels, asdict(labels))


def read_labels(folder: TrialFolder) -> Labels | None:
    """What the rows of a trial's head stand for; None where it has none."""
    with suppress(FileNotFoundError):
        return Labels(**json.loads(folder.labels.read_text(encoding="utf-8")))
    return None


def _as_prompted(job: Job, evaluated: Evaluated, renderer: Renderer) -> list[Prediction]:
    """The predictions with the prompts that the merged checkpoint is given for the same text."""
    prompts = [renderer.prompt(example.prompt) for example in job.evaluated_examples]
    return [replace(one, prompt=prompt) for one, prompt in zip(evaluated.predictions, prompts, strict=True)]
