"""What less training data would have given: nested parts of them trained on, scored on some of the run's examples."""

import json
import logging
import math
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from workbench import files
from workbench.compare import fitted_curve
from workbench.errors import MethodError, UserError, without_places
from workbench.evaluation import Prediction, read_predictions
from workbench.results import CurveRecord, Results
from workbench.run.clock import RunClock
from workbench.run.entries import TunedEntry
from workbench.run.folder import RunFolder, TrialFolder
from workbench.run.forecast import SCORED
from workbench.run.heads import Head
from workbench.run.method_training import MethodTraining
from workbench.run.method_trial import run_method
from workbench.run.plan import part_of
from workbench.run.prepare import Job
from workbench.run.trial import why_failed

logger = logging.getLogger(__name__)

# Nested parts of the training rows beside the whole of them: with these a run takes at most twice as long.
PARTS = (0.25, 0.5)
# By which the parts are drawn: it hangs on no seed of a run.
PART_SEED = 1
POINT = "point.json"

Answers = Mapping[str, Mapping[int, list[Prediction]]]


def curved(job: Job, folder: RunFolder) -> list[TunedEntry]:
    """The entries of which a curve was asked for."""
    return [entry for entry in job.tuned if entry.method.trains] if folder.options.curve else []


def parts_left(job: Job, folder: RunFolder) -> dict[str, list[float]]:
    """Entry -> the parts of the training rows that are still to be trained on."""
    return {
        entry.name: [part for part in PARTS if _noted(folder, entry.name, part) is None]
        for entry in curved(job, folder)
    }


def curves(job: Job, folder: RunFolder, results: Results, answers: Answers) -> list[CurveRecord]:
    """The curves of the entries whose points were carried out.

    Args:
        results: of the run, all seeds together.
        answers: entry -> seed -> answers.
    """
    seed, split, label = folder.options.seed, results.compared_split, results.compared_label
    of_seeds = {one.method: one.metrics for one in results.over_seeds}
    scored = {run.method: run for run in results.runs if run.seed == seed and label in run.metrics}
    others = {e.name: answers[e.name][seed] for e in job.entries if e.fixed and e.name in scored}
    found = []
    for entry in curved(job, folder):
        places = [_place(folder, entry.name, part).path for part in PARTS]
        noted = [one for part in PARTS if (one := _noted(folder, entry.name, part)) is not None]
        if entry.name not in scored or len(noted) < len(PARTS):
            logger.warning("%s: no curve: not all of its parts were carried through", entry.name)
            continue
        given = [[one for one in read_predictions(place) if one.split == split] for place in places]
        points = [(one["rows"], some, one["seconds"]) for one, some in zip(noted, given, strict=True)]
        points.append((rows_read(job.of(entry), scored[entry.name].steps), answers[entry.name][seed], 0.0))
        deviation = of_seeds[entry.name][label].sd if entry.name in of_seeds else None
        found.append(fitted_curve(job.primary_metric, split, entry.name, points, others, deviation))
    return found


def rows_read(job: Job, steps: int | None = None) -> int:
    """Different training rows that a training comes to.

    Args:
        steps: that it made; None for all that it was to make.
    """
    return min(len(job.rows.train), (steps or job.steps) * job.recipe.training.batch_size)


def part_of_job(job: Job, part: float, steps: int) -> Job:
    """The job with a part of the training rows and as much fewer steps, scored on a part of its examples.

    Args:
        steps: that the training on all rows made.
    """
    training = replace(job.recipe.training, max_steps=max(1, math.ceil(part * steps)))
    heads = {name: _trained_on(head, part) for name, head in job.heads.items()}
    scored = {split: part_of(job.pairs[split], math.ceil(SCORED * len(some))) for split, some in job.evaluated.items()}
    recipe = replace(job.recipe, training=training)
    return replace(job, recipe=recipe, heads=heads, head=heads[job.head.name], parts=scored, trackers=())


def _trained_on(head: Head, part: float) -> Head:
    """A head that is trained on a part of its rows: the first ones of an order that is always the same."""
    if head.rows is None:
        return head
    order = np.random.default_rng(PART_SEED).permutation(len(head.rows.train))
    some = sorted(map(int, order[: max(1, math.ceil(part * len(order)))]))
    return replace(head, rows=replace(head.rows, train=head.rows.train.select(some)))


def training_of_part(job: Job, entry: TunedEntry, part: float, steps: int, folder: RunFolder) -> MethodTraining:
    """The training on a part of the rows; see `carry_out_part`."""
    return MethodTraining(
        job=part_of_job(job, part, steps).of(entry),
        method=entry.method,
        seed=folder.options.seed,
        folder=_place(folder, entry.name, part).training,
    )


def carry_out_part(
    job: Job, entry: TunedEntry, part: float, steps: int, folder: RunFolder, clock: RunClock | None = None
) -> None:
    """Train on a part and score it; its answers stay, and in how long, or why not.

    Args:
        part: of the training rows.
        steps: that the training on all of them made.
        clock: of the run that this is a part of.

    Raises:
        OSError: the disk is full.
    """
    place, began = _place(folder, entry.name, part), time.perf_counter()
    logger.info("%s: on %.0f %% of the training rows", entry.name, 100 * part)
    view = part_of_job(job, part, steps).of(entry)
    place.path.mkdir(parents=True, exist_ok=True)
    noted: dict[str, int | float | str] = {"rows": rows_read(view)}
    try:
        run_method(view, entry.method, folder.options.seed, {}, place, clock=clock, exports=False)
    except (MethodError, UserError) as error:
        noted["error"] = without_places(str(error))
    except Exception as error:  # the traceback goes to the log, the other points go on
        logger.exception("%s, on a part of the training rows, failed", entry.name)
        noted["error"] = without_places(why_failed(error, job, folder))
    if reason := noted.get("error"):
        logger.error("%s, on a part of the training rows: %s", entry.name, reason)
    files.write_json(place.path / POINT, {**noted, "seconds": time.perf_counter() - began})
    for left in (place.adapter, place.merged, place.trained, place.training):
        shutil.rmtree(left, ignore_errors=True)


def _noted(folder: RunFolder, entry: str, part: float) -> dict[str, Any] | None:
    """What a point left; None where it was not carried through."""
    with suppress(FileNotFoundError):
        noted: dict[str, Any] = json.loads((_place(folder, entry, part).path / POINT).read_text(encoding="utf-8"))
        return None if "error" in noted else noted
    return None


def _place(folder: RunFolder, entry: str, part: float) -> TrialFolder:
    return TrialFolder(folder.path / "curve" / f"{entry}-{100 * part:.0f}")
