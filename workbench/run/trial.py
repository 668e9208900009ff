"""One entry with one seed, carried to its end or recorded with the reason why not."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import psutil

from workbench import files
from workbench.errors import MethodError, UserError, without_places
from workbench.export import FreshProcess
from workbench.recipe import LIKELIHOOD
from workbench.results import FAILED, ExportRecord, RunRecord
from workbench.run.baselines import run_baseline, run_reranker
from workbench.run.clock import TRAINING, RunClock
from workbench.run.entries import BaselineEntry, Entry, RerankerEntry, TunedEntry, find_entry
from workbench.run.folder import RunFolder
from workbench.run.method_trial import run_method
from workbench.run.options import Options
from workbench.run.out_of_memory import is_out_of_memory, what_needs_less
from workbench.run.prepare import Job
from workbench.run.usage import product_seconds

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is to be carried through. It can be sent to another process, which has the job and the folder.

    Attributes:
        entry: its name.
        seed: of new weights and the order of the examples.
        settings: of its method, before those of the recipe; `learning_rate` is one of them.
    """

    entry: str
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)


def trials_of(job: Job, options: Options) -> list[Trial]:
    """Everything that a run carries through, in the order of the table; what no seed changes, with the first only."""
    seeds = range(options.seed, options.seed + options.seeds)
    return [
        Trial(entry=entry.name, seed=seed)
        for seed in seeds
        for entry in job.entries
        if seed == options.seed or not entry.fixed
    ]


def run_trial(
    trial: Trial, job: Job, folder: RunFolder, process: FreshProcess | None = None, clock: RunClock | None = None
) -> RunRecord:
    """Carry a trial through into its folder, and return its record, failed or done.

    Args:
        process: in which exports are read, if one is open already.
        clock: of the run that this is a part of.

    Raises:
        UserError: no such entry.
        OSError: the disk is full.
    """
    entry = find_entry(job.entries, trial.entry)
    before = product_seconds()
    try:
        record = _run(entry, trial, job, folder, process, clock or RunClock())
        products = [seconds for seconds in (before, product_seconds()) if seconds is not None]
        return replace(record, product_seconds=products)
    except (MethodError, UserError) as error:
        reason = str(error)
    except Exception as error:  # the traceback goes to the log, the other entries go on
        logger.exception("%s failed", trial.entry)
        reason = why_failed(error, job, folder)
    return failed(entry, trial, job, reason)


def failed(entry: Entry, trial: Trial, job: Job, reason: str) -> RunRecord:
    """The record of an entry that could not be carried to its end."""
    reason = without_places(reason)
    head, method = (entry.head, entry.method.name) if isinstance(entry, TunedEntry) else (LIKELIHOOD, entry.name)
    return RunRecord(
        method=entry.name,
        head=None if head == LIKELIHOOD else head,
        tuned_by=None if method == entry.name else method,
        seed=trial.seed,
        bits=job.bits,
        precision=job.shipped_in,
        status=FAILED,
        error=reason,
        trainable_parameters=0,
        total_parameters=0,
        train_seconds=0.0,
        evaluation_seconds=0.0,
        peak_memory_bytes=psutil.Process().memory_info().rss,
        adapter_bytes=0,
        export=ExportRecord(merged=False, reason=f"the method failed: {reason}"),
    )


def why_failed(error: Exception, job: Job, folder: RunFolder) -> str:
    """What is said of an entry that failed by what is no user's mistake.

    Raises:
        OSError: the disk is full, so that nothing else can go on either.
    """
    files.raise_if_full(error, folder.path)
    return what_needs_less(error, job) if is_out_of_memory(error) else f"{type(error).__name__}: {error}"


def _run(
    entry: Entry, trial: Trial, job: Job, folder: RunFolder, process: FreshProcess | None, clock: RunClock
) -> RunRecord:
    files = folder.trial(entry.name, trial.seed, trial.settings)
    if isinstance(entry, BaselineEntry):
        logger.info("%s: a baseline", entry.name)
        with clock.stage(entry.name, trial.seed, TRAINING):
            return run_baseline(job, entry, trial.seed, files)
    if isinstance(entry, RerankerEntry):
        logger.info("%s: its likelihoods together with what else is known of the choices", entry.name)
        return run_reranker(
            job, entry, trial.seed, files, folder.trial(entry.reranked.name, trial.seed, trial.settings)
        )
    logger.info("%s, seed %d: %s", entry.name, trial.seed, entry.method.summary)
    return run_method(job.of(entry), entry.method, trial.seed, trial.settings, files, process, clock)
