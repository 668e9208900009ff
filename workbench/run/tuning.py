"""Settings of every method chosen by trials on the validation split, as many for each, before anything is compared."""

import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.errors import MethodError, UserError, without_places
from workbench.methods.space import LEARNING_RATE, with_settings
from workbench.models import release_memory
from workbench.processes import together
from workbench.results import TuningRecord
from workbench.run.entries import TunedEntry, search_space_of
from workbench.run.folder import RunFolder
from workbench.run.method_training import MethodTraining, in_smaller_parts
from workbench.run.prepare import Job, require_context
from workbench.run.trial import why_failed
from workbench.training import Limit, Trained, Watched
from workbench.tune import Outcome, Proposal, Study, is_behind

logger = logging.getLogger(__name__)

STUDIES = "studies.db"


def tuned_entries_of(job: Job) -> list[TunedEntry]:
    """The entries whose settings `--tune` chooses."""
    return [entry for entry in job.tuned if entry.method.trains and search_space_of(job.recipe, entry)]


def trials_asked(job: Job, folder: RunFolder) -> dict[str, int]:
    """Entry -> how many trials of its settings were asked for."""
    return dict.fromkeys(_by_name(job), folder.options.tune) if folder.options.tune else {}


def pending_trials(job: Job, folder: RunFolder) -> dict[str, int]:
    """Entry -> how many of them are still to be made."""
    asked = trials_asked(job, folder)
    if not (folder.tuning / STUDIES).exists():
        return asked
    entries = _by_name(job)
    studies = {name: study_of(job, folder, entries[name]) for name in asked}
    return {name: 0 if study.is_over else asked[name] - len(study.record().trials) for name, study in studies.items()}


def with_tuned(job: Job, entry: TunedEntry, chosen: Mapping[str, Any]) -> Job:
    """The job with settings of an entry that tuning chose.

    Raises:
        UserError: the model can't read as many tokens with them.
    """
    recipe, key = job.recipe, f"{entry.method.name}-{entry.head}"
    usual = _usual(job, entry)
    settings = with_settings(usual, chosen, search_space_of(recipe, entry))
    changed = {name: value for name, value in settings.items() if value != usual[name]}
    recipe = replace(recipe, settings={**recipe.settings, key: {**recipe.settings.get(key, {}), **changed}})
    require_context(recipe, job.checkpoint, [entry])
    return replace(job, recipe=recipe)


def study_of(job: Job, folder: RunFolder, entry: TunedEntry) -> Study:
    """The trials of an entry, those that were made before among them."""
    return Study(
        folder.tuning / STUDIES,
        entry.name,
        search_space_of(job.recipe, entry),
        _usual(job, entry),
        folder.options.tune or 0,
        seed_of(folder),
    )


def seed_of(folder: RunFolder) -> int:
    """Of the trainings of all trials: none that is compared has it, so that no seed is chosen along with settings."""
    return folder.options.seed + folder.options.seeds


def tuning_text(record: TuningRecord) -> str:
    """What came of the trials of an entry, in a sentence or two."""
    chosen = record.chosen
    if chosen is None:
        return f"{record.entry}: no trial of its settings was carried through: they are left as they are"
    said = ", ".join(f"{name} {value:g}" for name, value in chosen.settings.items())
    usual = record.trials[0]
    before = f"; {usual.validation_loss:.4f} with the usual ones" if usual.status == "done" else ""
    loss = f"validation loss {chosen.validation_loss:.4f}{before}"
    text = f"{record.entry}: {said}, of {len(record.trials)} trials; {loss}"
    for name in record.at_edge:
        low, high = record.tried[name]
        text += f". Its {name} lies at the edge of what was tried ({low:g} to {high:g}): a better one may lie beyond"
    return text


def _usual(job: Job, entry: TunedEntry) -> dict[str, Any]:
    """The settings of an entry without tuning, the learning rate among them."""
    view, method = job.of(entry), entry.method
    return {**method.settings, **view.settings(method), LEARNING_RATE: view.learning_rate(method)}


def _by_name(job: Job) -> dict[str, TunedEntry]:
    return {entry.name: entry for entry in tuned_entries_of(job)}


def training_of(job: Job, entry: TunedEntry, proposal: Proposal, folder: RunFolder) -> MethodTraining:
    """The training by which settings are tried.

    Raises:
        UserError: the model can't read as many tokens with them.
    """
    return MethodTraining(
        job=with_tuned(job, entry, proposal.settings).of(entry),
        method=entry.method,
        seed=seed_of(folder),
        folder=_place(entry, proposal, folder),
        title=_title(entry, proposal, folder),
    )


def _place(entry: TunedEntry, proposal: Proposal, folder: RunFolder) -> Path:
    return folder.tuning / f"{entry.name}-{proposal.place + 1}"


def _title(entry: TunedEntry, proposal: Proposal, folder: RunFolder) -> str:
    return f"{entry.name}: trial {proposal.place + 1} of {folder.options.tune}"


def tried(job: Job, entry: TunedEntry, proposal: Proposal, folder: RunFolder, limit: Limit) -> Outcome:
    """Train an entry with settings, and measure the validation loss alone.

    Raises:
        OSError: the disk is full.
    """
    place, title = _place(entry, proposal, folder), _title(entry, proposal, folder)
    began, steps = time.perf_counter(), job.steps

    def behind(curve: Mapping[int, float]) -> bool:
        return is_behind(curve, proposal.earlier, steps)

    def fitted(training: MethodTraining) -> Trained:
        with together():
            model = training.attached()
        return training.trained(model, limit, [Watched(behind)])

    try:
        trained = in_smaller_parts(training_of(job, entry, proposal, folder), fitted)
        release_memory()
    except (MethodError, UserError) as error:
        shutil.rmtree(place, ignore_errors=True)
        return _failed(title, str(error), began)
    except Exception as error:  # the traceback goes to the log, the other trials go on
        logger.exception("%s failed", title)
        reason = why_failed(error, job, folder)
        shutil.rmtree(place, ignore_errors=True)
        return _failed(title, reason, began)
    shutil.rmtree(place, ignore_errors=True)
    curve = {int(point["step"]): point["validation_loss"] for point in trained.curve if "validation_loss" in point}
    stopped = trained.stopped_at is not None or (trained.steps < steps and behind(curve))
    return Outcome(
        status="stopped" if stopped else "done",
        seconds=trained.seconds,
        loss=trained.validation_loss,
        curve=curve,
    )


def _failed(title: str, reason: str, began: float) -> Outcome:
    logger.warning("%s: %s", title, reason)
    return Outcome(status="failed", seconds=time.perf_counter() - began, error=without_places(reason))
