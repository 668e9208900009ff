"""The whole run: every entry with every seed, the results after each, the report at the end."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from workbench.compare import compare_methods, over_seeds, write_report
from workbench.console import progress_bar, showing_time_left
from workbench.device import choose
from workbench.errors import UserError
from workbench.evaluation import Metric, Prediction, read_predictions
from workbench.export import FreshProcess
from workbench.models import skip_what_is_there
from workbench.processes import tell
from workbench.results import (
    CheckpointInfo,
    Comparison,
    MetricInfo,
    Price,
    Results,
    RunRecord,
    Seconds,
    SeedsRecord,
)
from workbench.run.budget import budget_of, deadline_of, fitted, pending
from workbench.run.clock import Key, RunClock, noting_seconds, seconds_noted
from workbench.run.curve import curves
from workbench.run.data_info import data_of, require_same_data
from workbench.run.engines import carried_out, engine_of, is_parallel, require_memory, require_options, threads_of
from workbench.run.folder import RunFolder
from workbench.run.forecast import Costs, forecast_text
from workbench.run.manifest import changes, changes_text
from workbench.run.measure import measure
from workbench.run.options import Options
from workbench.run.origin import command_of
from workbench.run.prepare import Job
from workbench.run.prepared import prepare_run
from workbench.run.resources import changed_versions, environment, versions
from workbench.run.schedule import Schedule
from workbench.run.trial import trials_of
from workbench.sources import public_name

logger = logging.getLogger(__name__)


def begin_run(folder: RunFolder, began: float) -> Results:
    """Prepare and carry out a run, or the rest of one that was interrupted.

    Args:
        folder: that was created or opened.
        began: when the command did, by `time.perf_counter`.

    Raises:
        UserError: anything the user has to mend; a new folder is removed then, so that its path can be given again.
        OSError: the disk is full, or the like.
    """
    with folder.locked(), FreshProcess() as process:
        try:
            choose(folder.options.device)
            require_options(folder.options)
            process.begin()
            job = prepare_run(folder, folder.prepared)
            began += job.fetching_seconds
            for split, said in job.remarks.items():
                for remark in said:
                    logger.warning("%s: %s", split, remark)
            deadline = deadline_of(folder, began)
            skip_what_is_there()
            done = finished_before(folder)
            left = pending(job, folder, done)
            still = replace(job, entries=[entry for entry in job.entries if entry.name in left])
            costs = measure(still, left, folder.path, process)
            if is_parallel(folder.options):
                require_memory(folder.options, costs.memory_bytes)
            job = fitted(job, folder, costs, began)
        except UserError:
            if folder.is_new:
                folder.discard()
            raise
        note_versions(folder)
        cpus = threads_of(folder.options) if is_parallel(folder.options) else None
        folder.options = replace(folder.options, data=job.data.content, cpus=cpus)
        folder.keep_options()
        tell(str(folder.path.resolve()))
        spent = time.perf_counter() - began
        logger.info("%s", forecast_text(job, costs, folder.path, spent, is_parallel(folder.options)))
        results = run_job(job, folder, began, done, process, costs, deadline)
    if is_whole(results, folder.options):
        folder.clean_up()
    return results


def is_whole(results: Results, options: Options) -> bool:
    """Whether all that was asked for was carried to its end: every entry with every seed, and every curve."""
    trained = {run.method for run in results.runs if run.steps and run.seed == options.seed}
    curves_there = {one.entry for one in results.curves}
    return all(run.done for run in results.runs) and (not options.curve or trained <= curves_there)


def note_versions(folder: RunFolder) -> None:
    """Note with which libraries a run is begun; of one that goes on, say what is another since."""
    begun = folder.options.versions
    if begun is None:
        if not folder.has_results:  # else an older version began it, and nobody knows with which
            folder.options = replace(folder.options, versions=versions())
        return
    now = versions()
    changed = [f"{name} {before}, now {now.get(name)}" for name, before in changed_versions(begun).items()]
    if changed:
        logger.warning(
            "%s was begun with %s: what is trained now need not equal what would have been trained then; recorded in "
            "results.json", folder.path, ", ".join(changed),
        )  # fmt: skip


def with_methods(folder: RunFolder, methods: Sequence[str]) -> RunFolder:
    """The same run with more methods, behind those that it has."""
    if not methods:
        return folder
    before = folder.options.methods or list(folder.recipe.methods)
    options = replace(folder.options, methods=list(dict.fromkeys([*before, *methods])))
    options = replace(options, command=command_of(options) if options.command else None)
    return RunFolder(folder.path, options, folder.recipe)


def run_job(
    job: Job,
    folder: RunFolder,
    began: float,
    done: Mapping[Key, RunRecord],
    process: FreshProcess,
    costs: Costs,
    deadline: float | None,
) -> Results:
    """Carry a job through, going on where an earlier run was interrupted.

    Args:
        folder: locked by the caller.
        began: when the command did, by `time.perf_counter`.
        done: what was carried through before; see `finished_before`.
        process: in which exports are read.
        costs: what the entries take that are not done.
        deadline: when it has to end, by `time.perf_counter`; None for no limit.

    Returns:
        What is in `results.json`, which is written anew after every trial.

    Raises:
        UserError: the data have changed since the run was begun.
        OSError: the disk is full, or the like.
    """
    trials = trials_of(job, folder.options)
    expected = costs.expected(job, [(trial.entry, trial.seed) for trial in trials])
    results = _header(job, folder.options, costs)
    results = replace(results, budget=budget_of(job, folder, costs, began))
    results, spent = _before(results, folder)
    began -= spent
    schedule = Schedule(job, folder, done, expected)
    clock = RunClock(expected, deadline, *_beside(job, costs, folder.options.seed))
    with (
        noting_seconds(folder.elapsed, began),
        engine_of(job, folder, process, clock) as engine,
        _progress(schedule, clock) as moved,
    ):
        for task in carried_out(schedule, engine):
            results = _with_records(results, schedule, began)
            if results.runs:  # trials of settings have a store of their own
                folder.write_results(results)
            schedule.clean_up(task)
            moved()
    results = _with_records(results, schedule, began)
    return _finished(schedule.job, folder, results, began)


@contextmanager
def _progress(schedule: Schedule, clock: RunClock) -> Iterator[Callable[[], None]]:
    """While the block runs, what is left of the run is shown; call it when a task is over."""
    if not is_parallel(schedule.folder.options):
        with showing_time_left(clock.left):
            yield lambda: None
        return
    with progress_bar("run", schedule.left, "task") as bar:

        def moved() -> None:
            bar.total = bar.n + 1 + schedule.left
            bar.update()

        yield moved


def _with_records(results: Results, schedule: Schedule, began: float) -> Results:
    """The results with what was carried through so far."""
    beside = is_parallel(schedule.folder.options)
    seconds = Seconds.of(schedule.runs, time.perf_counter() - began, schedule.tuning, beside=beside)
    return replace(results, runs=schedule.runs, tuning=schedule.tuning, seconds=seconds)


def _beside(job: Job, costs: Costs, seed: int) -> tuple[dict[Key, float], dict[Key, float]]:
    """What choosing settings takes of each entry, and parts of the training data."""
    tuning = {(name, seed): costs.tuning(job, name) for name in costs.entries}
    return tuning, {(name, seed): costs.curve(job, name) for name in costs.entries}


def finished_before(folder: RunFolder) -> dict[Key, RunRecord]:
    """The trials of a run that were carried through before, and left what is still there as it was.

    What is left of the others gets another name: they are done again.

    Raises:
        UserError: the results can't be read.
    """
    found = {}
    for record in folder.read_results().runs if folder.has_results else ():
        if not record.done:
            continue
        trial = folder.trial(record.method, record.seed)
        if changed := changes(trial, record):
            what, aside = changes_text(changed), trial.set_aside()
            kept = f"; what is there is kept in {aside}" if aside else ""
            logger.warning(
                "%s, seed %d is done again: %s since it was finished%s", record.method, record.seed, what, kept
            )
        else:
            found[record.method, record.seed] = record
    return found


def _before(results: Results, folder: RunFolder) -> tuple[Results, float]:
    """What an interrupted run left: its budget in `results`, and the seconds it took.

    Raises:
        UserError: the data have changed since.
    """
    noted = seconds_noted(folder.elapsed)
    if not folder.has_results:
        return results, noted
    before = folder.read_results()
    require_same_data(results.data, before.data, folder.path)
    spent = max(noted, before.seconds.total if before.seconds else 0.0)
    if results.checkpoint.general_loss is None:  # no entry was left by which the base was opened
        results = replace(results, checkpoint=before.checkpoint)
    return replace(results, budget=before.budget), spent


def _finished(job: Job, folder: RunFolder, results: Results, began: float) -> Results:
    """Compare what was carried through, and write results and report."""
    answers: dict[str, dict[int, list[Prediction]]] = {}
    for run in results.runs:
        if run.done:
            answers.setdefault(run.method, {})[run.seed] = read_predictions(folder.trial(run.method, run.seed).path)
    results = replace(
        results,
        comparisons=_comparisons(job, answers),
        over_seeds=_over_seeds(job, answers) if folder.options.seeds > 1 else (),
    )
    found = curves(job, folder, results, answers)
    total, beside = time.perf_counter() - began, is_parallel(folder.options)
    seconds = Seconds.of(results.runs, total, results.tuning, found, beside)
    results = replace(results, curves=found, seconds=seconds)
    folder.write_results(results)
    seed = folder.options.seed
    first = {name: of_seeds[seed] for name, of_seeds in answers.items() if seed in of_seeds}
    write_report(folder.path, results, first, job.recipe.description, job.metrics, folder.options.language)
    return results


def _header(job: Job, options: Options, costs: Costs) -> Results:
    checkpoint = job.checkpoint
    return Results(
        recipe=job.recipe.name,
        recipe_sha256=options.recipe_sha256,
        checkpoint=CheckpointInfo(
            name=public_name(checkpoint.name),
            licence=checkpoint.licence,
            sha256=checkpoint.sha256,
            base_sha256=options.base_sha256,
            general_loss=costs.general_loss,
        ),
        headline=job.recipe.primary_metric,
        evaluated_splits=list(job.recipe.evaluated_splits),
        metrics={metric.name: _describe(metric) for metric in job.metrics},
        environment={**environment(options.versions), **_origin(options)},
        data=data_of(job),
        price=Price.of(options.price) if options.price else None,
    )


def _origin(options: Options) -> dict[str, Any]:
    """From what a run comes, as far as it is known, and the threads of each of its jobs beside each other."""
    known = {"command": options.command, "git": options.git, "day": options.day, "threads": options.cpus}
    return {name: value for name, value in known.items() if value is not None}


def _describe(metric: Metric) -> MetricInfo:
    def finite(bound: float) -> float | None:
        return bound if math.isfinite(bound) else None  # JSON knows no infinity

    return MetricInfo(
        title=metric.title,
        summary=metric.summary,
        higher_is_better=metric.higher_is_better,
        worst=finite(metric.worst),
        best=finite(metric.best),
        chance=metric.chance,
    )


def _comparisons(job: Job, answers: Mapping[str, Mapping[int, list[Prediction]]]) -> list[Comparison]:
    """Compare the entries that were carried through, each with the seeds that were: entry -> seed -> answers."""
    metric, splits = job.primary_metric, job.recipe.evaluated_splits
    scored = {
        name: {p.split for given in of_seeds.values() for p in given if metric.applies(p)}
        for name, of_seeds in answers.items()
    }
    split = next((split for split in splits if any(split in found for found in scored.values())), "")
    comparable = {name: list(of_seeds.values()) for name, of_seeds in answers.items() if split in scored[name]}
    return compare_methods(metric, split, comparable, _fixed(job)) if len(comparable) > 1 else []


def _over_seeds(job: Job, answers: Mapping[str, Mapping[int, list[Prediction]]]) -> list[SeedsRecord]:
    return over_seeds(job.metrics, answers, _fixed(job), job.recipe.report_groups)


def _fixed(job: Job) -> set[str]:
    """The entries that no seed changes."""
    return {entry.name for entry in job.entries if entry.fixed}
