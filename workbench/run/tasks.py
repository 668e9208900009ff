"""The pieces of a run: each can be carried out by any process that has the run's folder."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from workbench.export import FreshProcess
from workbench.results import RunRecord
from workbench.run.clock import CURVE, TUNING, RunClock
from workbench.run.curve import PARTS, carry_out_part, training_of_part
from workbench.run.entries import TunedEntry, find_entry
from workbench.run.folder import RunFolder
from workbench.run.method_training import MethodTraining
from workbench.run.prepare import Job
from workbench.run.trial import Trial, run_trial
from workbench.run.tuning import training_of, tried, with_tuned
from workbench.training import Limit
from workbench.tune import Outcome, Proposal


@dataclass(frozen=True, kw_only=True)
class TuningTask:
    """A training of an entry with settings that are tried; its answer is an `Outcome`, or None for want of time."""

    entry: str
    proposal: Proposal

    @property
    def key(self) -> Hashable:
        """By which it is told from all others of the run."""
        return "tuning", self.entry, self.proposal.place

    def __str__(self) -> str:
        return f"{self.entry}: trial {self.proposal.place + 1} of its settings"

    def training(self, job: Job, folder: RunFolder) -> MethodTraining | None:
        """What several processes train together for it; None if nothing."""
        return training_of(job, tuned_entry(job, self.entry), self.proposal, folder)

    def carry_out(self, job: Job, folder: RunFolder, process: FreshProcess, clock: RunClock) -> Outcome | None:
        """Do it in this process.

        Raises:
            OSError: the disk is full.
        """
        left = (folder.options.tune or 0) - self.proposal.place
        with clock.stage(self.entry, folder.options.seed, TUNING, left):
            limit = Limit(stop_at=clock.limit().stop_at)
            if limit.reached(0):
                return None
            return tried(job, tuned_entry(job, self.entry), self.proposal, folder, limit)


@dataclass(frozen=True, kw_only=True)
class TrialTask:
    """An entry with one seed; its answer is a `RunRecord`.

    Attributes:
        chosen: settings of the entry that tuning chose.
    """

    trial: Trial
    chosen: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> Hashable:
        """By which it is told from all others of the run."""
        return "trial", self.trial.entry, self.trial.seed

    def __str__(self) -> str:
        return f"{self.trial.entry}, seed {self.trial.seed}"

    def training(self, job: Job, folder: RunFolder) -> MethodTraining | None:
        """What several processes train together for it; None if nothing."""
        job = with_chosen(job, self.trial.entry, self.chosen)
        entry = find_entry(job.entries, self.trial.entry)
        if not isinstance(entry, TunedEntry) or not entry.method.trains:
            return None
        return MethodTraining(
            job=job.of(entry),
            method=entry.method,
            seed=self.trial.seed,
            settings=self.trial.settings,
            folder=folder.trial(entry.name, self.trial.seed, self.trial.settings).training,
        )

    def carry_out(self, job: Job, folder: RunFolder, process: FreshProcess, clock: RunClock) -> RunRecord:
        """Do it in this process.

        Raises:
            OSError: the disk is full.
        """
        return run_trial(self.trial, with_chosen(job, self.trial.entry, self.chosen), folder, process, clock)


@dataclass(frozen=True, kw_only=True)
class PartTask:
    """A training of an entry on a part of the rows, for a curve; what it finds is in the folder, its answer None.

    Attributes:
        part: of the training rows.
        steps: that the training on all of them made.
        chosen: settings of the entry that tuning chose.
    """

    entry: str
    part: float
    steps: int
    chosen: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> Hashable:
        """By which it is told from all others of the run."""
        return "part", self.entry, self.part

    def __str__(self) -> str:
        return f"{self.entry}, on {100 * self.part:.0f} % of the training rows"

    def training(self, job: Job, folder: RunFolder) -> MethodTraining | None:
        """What several processes train together for it; None if nothing."""
        job = with_chosen(job, self.entry, self.chosen)
        return training_of_part(job, tuned_entry(job, self.entry), self.part, self.steps, folder)

    def carry_out(self, job: Job, folder: RunFolder, process: FreshProcess, clock: RunClock) -> None:
        """Do it in this process.

        Raises:
            OSError: the disk is full.
        """
        job = with_chosen(job, self.entry, self.chosen)
        with clock.stage(self.entry, folder.options.seed, CURVE, len(PARTS) - PARTS.index(self.part)):
            carry_out_part(job, tuned_entry(job, self.entry), self.part, self.steps, folder, clock)


Task = TuningTask | TrialTask | PartTask


@dataclass(frozen=True, kw_only=True)
class Lost:
    """The answer to a task whose process died as often as it was begun.

    Attributes:
        reason: in a sentence.
    """

    reason: str


Answer = Outcome | RunRecord | Lost | None


def tuned_entry(job: Job, name: str) -> TunedEntry:
    """The tuned entry called `name`."""
    return next(entry for entry in job.tuned if entry.name == name)


def with_chosen(job: Job, name: str, chosen: Mapping[str, Any]) -> Job:
    """The job with settings of an entry that tuning chose, if it chose any."""
    entry = find_entry(job.entries, name)
    return with_tuned(job, entry, chosen) if chosen and isinstance(entry, TunedEntry) else job
