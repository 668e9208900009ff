"""What of a run can be carried out now, and what came of it: one task after the other, or several beside each other."""

import logging
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace

from workbench.results import Forecast, RunRecord, TuningRecord
from workbench.run.clock import Key
from workbench.run.curve import curved, parts_left
from workbench.run.entries import Entry, RerankerEntry, find_entry
from workbench.run.folder import RunFolder, TrialFolder
from workbench.run.manifest import sealed
from workbench.run.prepare import Job
from workbench.run.tasks import Answer, Lost, PartTask, Task, TrialTask, TuningTask, tuned_entry, with_chosen
from workbench.run.trial import failed, trials_of
from workbench.run.tuning import study_of, trials_asked, tuning_text
from workbench.tune import Outcome, Proposal, Study

logger = logging.getLogger(__name__)


class Schedule:
    """The tasks of a run, in the order in which they are best begun.

    Settings of an entry are tried round by round; its seeds wait for them, a reranker for what it reranks, the parts
    of a curve for the first seed. Entries don't wait for each other.

    Args:
        job: without settings that tuning chooses.
        folder: locked by the caller.
        done: what was carried through before.
        expected: what is, if that was measured.

    Attributes:
        job: with the settings that were chosen so far.
        records: what was carried through or failed.
    """

    def __init__(
        self, job: Job, folder: RunFolder, done: Mapping[Key, RunRecord], expected: Mapping[Key, Forecast]
    ) -> None:
        self.job, self.folder, self.expected = job, folder, expected
        self.records: dict[Key, RunRecord] = dict(done)
        self._trials = trials_of(job, folder.options)
        for key in done:
            logger.info("%s, seed %d: done before", *key)
        self._parts = parts_left(job, folder)
        self._begun: set[Hashable] = set()
        self._studies: dict[str, Study] = {}
        self._proposed: dict[str, list[Proposal]] = {}
        self._tuning: dict[str, TuningRecord] = {}
        if folder.options.tune:
            folder.tuning.mkdir(exist_ok=True)
        for name in trials_asked(job, folder):
            self._studies[name] = study_of(job, folder, tuned_entry(job, name))
            self._propose(name)

    @property
    def runs(self) -> list[RunRecord]:
        """The records so far, in the order of the table."""
        keys = [(trial.entry, trial.seed) for trial in self._trials]
        return [self.records[key] for key in keys if key in self.records]

    @property
    def tuning(self) -> list[TuningRecord]:
        """How settings were chosen, of the entries where that is over."""
        return [self._tuning[name] for name in self._studies if name in self._tuning]

    @property
    def left(self) -> int:
        """Tasks that have no answer yet, those among them that can't be begun yet."""
        asked, parts = self.folder.options.tune or 0, sum(map(len, self._parts.values()))
        trials = sum((trial.entry, trial.seed) not in self.records for trial in self._trials)
        studies = [study for name, study in self._studies.items() if name not in self._tuning]
        return trials + parts + sum(asked - len(study.record().trials) for study in studies)

    def ready(self) -> list[Task]:
        """What can be begun now."""
        found: list[Task] = [*self._of_tuning(), *self._of_seeds(), *self._of_curves()]
        return [task for task in found if task.key not in self._begun]

    def begin(self, task: Task) -> None:
        """It is under way, and not ready any more."""
        self._begun.add(task.key)

    def tell(self, task: Task, answer: Answer) -> None:
        """What came of a task."""
        if isinstance(task, TuningTask):
            self._tried(task, answer)
        elif isinstance(task, TrialTask):
            self._carried_out(task, answer)
        else:
            if isinstance(answer, Lost):
                logger.error("%s: %s", task, answer.reason)
            self._parts[task.entry] = [part for part in self._parts[task.entry] if part != task.part]

    def _tried(self, task: TuningTask, answer: Answer) -> None:
        """Note what came of settings; when its time is over, what is chosen of those that were tried before."""
        study, proposed = self._studies[task.entry], self._proposed[task.entry]
        if answer is None:
            study.close()
            proposed.clear()
        else:
            if isinstance(answer, Lost):
                logger.error("%s: %s", task, answer.reason)
                answer = Outcome(status="failed", seconds=0.0, error=answer.reason)
            assert isinstance(answer, Outcome)
            study.tell(task.proposal, answer)
            proposed.remove(task.proposal)
        if not proposed:
            self._propose(task.entry)

    def clean_up(self, task: Task) -> None:
        """Remove what served an interruption of a task; to be called when its record is on disk."""
        if isinstance(task, TrialTask):
            record = self.records[task.trial.entry, task.trial.seed]
            if record.done:
                self._files(task).clean_up(keep_weights=not record.export.merged)

    def _carried_out(self, task: TrialTask, answer: Answer) -> None:
        """Note the record of a trial, and seal its files."""
        key = task.trial.entry, task.trial.seed
        entry = find_entry(self.job.entries, task.trial.entry)
        record = failed(entry, task.trial, self.job, answer.reason) if isinstance(answer, Lost) else answer
        assert isinstance(record, RunRecord)
        record = replace(record, forecast=self.expected.get(key))
        if record.done:
            record = sealed(self._files(task), record)
        else:
            logger.error("%s: %s", task, record.error)
        self.records[key] = record

    def _files(self, task: TrialTask) -> TrialFolder:
        return self.folder.trial(task.trial.entry, task.trial.seed, task.trial.settings)

    def _propose(self, name: str) -> None:
        """Ask a study for its next round; where there is none, take what it chose."""
        study = self._studies[name]
        self._proposed[name] = study.proposals()
        if self._proposed[name]:
            return
        study.close()
        self._tuning[name] = record = study.record()
        self.job = with_chosen(self.job, name, record.settings)
        logger.info("%s", tuning_text(record))

    def _of_tuning(self) -> Iterator[TuningTask]:
        for name, proposals in self._proposed.items():
            yield from (TuningTask(entry=name, proposal=proposal) for proposal in proposals)

    def _of_seeds(self) -> Iterator[TrialTask]:
        for trial in self._trials:
            if (trial.entry, trial.seed) not in self.records:
                entry = find_entry(self.job.entries, trial.entry)
                if self._may_begin(entry, trial.seed):
                    yield TrialTask(trial=trial, chosen=self._chosen(trial.entry))

    def _may_begin(self, entry: Entry, seed: int) -> bool:
        """Whether all that an entry waits for is there."""
        if isinstance(entry, RerankerEntry):
            return (entry.reranked.name, seed) in self.records
        return entry.name not in self._studies or entry.name in self._tuning

    def _of_curves(self) -> Iterator[PartTask]:
        for entry in curved(self.job, self.folder):
            record = self.records.get((entry.name, self.folder.options.seed))
            if record is None or not record.done or not record.steps:
                continue
            for part in self._parts[entry.name]:
                yield PartTask(entry=entry.name, part=part, steps=record.steps, chosen=self._chosen(entry.name))

    def _chosen(self, name: str) -> Mapping[str, float]:
        return self._tuning[name].settings if name in self._tuning else {}
