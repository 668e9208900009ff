"""What a run will take, said by entry and in all before anything is trained."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from workbench.console import bytes_text, duration_text
from workbench.device import memory_there
from workbench.results import Forecast
from workbench.run.merge import PROOF_PROMPTS
from workbench.run.plan import Amounts
from workbench.run.prepare import Job
from workbench.run.timing import TrainingCost
from workbench.training import steps_in

# Of the scored examples, the part that a training on a part of the rows is scored on.
SCORED = 0.5
# Cores' worth of time of other processes that is worth a word.
BUSY = 0.5


@dataclass(frozen=True, kw_only=True)
class Pending:
    """How often an entry is still to be carried out.

    Attributes:
        times: with as many seeds.
        trials: trainings by which its settings are chosen.
        parts: of the training rows that it is trained on beside, and scored on a part of the examples.
    """

    times: int = 1
    trials: int = 0
    parts: Sequence[float] = ()

    @property
    def trainings(self) -> float:
        """How many there are in all, counted by their steps."""
        return self.times + self.trials + sum(self.parts)

    @property
    def evaluations(self) -> float:
        """How many there are in all, counted by their examples."""
        return self.times + SCORED * len(self.parts)


@dataclass(frozen=True, kw_only=True)
class EntryCost(Pending):
    """What an entry takes, in seconds, by what it hangs on.

    Attributes:
        training: of a tuned method.
        fixed: of training, evaluation and export, what no cut makes shorter.
        evaluation: of all examples of all evaluated splits.
        proof: of an export, for each prompt on which it is proven.
        memory_bytes, disk_bytes: at most, and of what stays.
        trainable, total: numbers that are trained, and in all; 0 for what is no language model.
        problem: why it can't be measured, and perhaps not be carried out; else empty.
    """

    fixed: Forecast
    training: TrainingCost | None = None
    evaluation: float = 0.0
    proof: float = 0.0
    memory_bytes: int = 0
    disk_bytes: int = 0
    trainable: int = 0
    total: int = 0
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What every entry of a job takes on this machine.

    Attributes:
        validation_rows: by which the validation loss is measured, of all entries.
        general_loss: of the base, see `workbench.results.Changes`; None where no tuned entry was measured.
        busy: cores' worth of time that other processes took while it was measured.
    """

    entries: Mapping[str, EntryCost]
    validation_rows: int
    busy: float = 0.0
    general_loss: float | None = None

    def forecast(self, job: Job, name: str) -> Forecast:
        """What an entry of `job`, or of a part of it, takes with one seed."""
        cost = self.entries[name]
        training = 0.0
        if cost.training is not None:
            validation = cost.training.validation * len(job.rows.validation) / self.validation_rows
            training = job.steps * cost.training.step + validations(job) * validation
        evaluated = sum(map(len, job.evaluated.values()))
        asked = evaluated / max(1, sum(len(job.pairs[split]) for split in job.evaluated))
        return Forecast(
            training=cost.fixed.training + training,
            evaluation=cost.fixed.evaluation + cost.evaluation * asked,
            export=cost.fixed.export + cost.proof * min(PROOF_PROMPTS, evaluated),
        )

    def expected(self, job: Job, trials: Sequence[tuple[str, int]]) -> dict[tuple[str, int], Forecast]:
        """What each of some trials takes, given as (entry, seed), where it was measured."""
        return {(name, seed): self.forecast(job, name) for name, seed in trials if name in self.entries}

    def tuning(self, job: Job, name: str) -> float:
        """What the trials take by which the settings of an entry are chosen, if none is stopped early."""
        return self.entries[name].trials * self.forecast(job, name).training

    def curve(self, job: Job, name: str) -> float:
        """What training an entry on parts of the rows takes, and scoring that."""
        cost, one = self.entries[name], self.forecast(job, name)
        fixed = cost.fixed.training + (1 - SCORED) * cost.fixed.evaluation
        training = sum(cost.parts) * (one.training - cost.fixed.training)
        return len(cost.parts) * (fixed + SCORED * one.evaluation) + training

    def seconds(self, job: Job) -> float:
        """What all entries take with all seeds, all trials and all parts."""
        return sum(
            cost.times * self.forecast(job, name).total + self.tuning(job, name) + self.curve(job, name)
            for name, cost in self.entries.items()
        )

    def amounts(self, job: Job) -> Amounts:
        """The same as what a plan shares out."""
        costs = list(self.entries.values())
        trained = [(cost.trainings, cost.training) for cost in costs if cost.training is not None]
        return Amounts(
            fixed=sum(
                cost.times * cost.fixed.total
                + (cost.trials + len(cost.parts)) * cost.fixed.training
                + len(cost.parts) * cost.fixed.evaluation
                for cost in costs
            ),
            step=sum(times * training.step for times, training in trained),
            steps=job.steps,
            validation=sum(times * training.validation for times, training in trained),
            validations=validations(job),
            validation_rows=len(job.rows.validation),
            evaluation=sum(cost.evaluations * cost.evaluation for cost in costs),
            proof=sum(cost.times * cost.proof for cost in costs),
            proven=PROOF_PROMPTS,
            examples={split: len(pairs) for split, pairs in job.evaluated.items()},
        )

    @property
    def memory_bytes(self) -> int:
        """The most that an entry needs."""
        return max((cost.memory_bytes for cost in self.entries.values()), default=0)

    @property
    def disk_bytes(self) -> int:
        """What stays of all entries."""
        return sum(cost.times * cost.disk_bytes for cost in self.entries.values())


def validations(job: Job) -> int:
    """Measurements of the validation loss in a training."""
    steps, every = steps_in(job.recipe.training, len(job.rows.train))
    return -(-steps // every)


def forecast_text(job: Job, costs: Costs, folder: Path, spent: float = 0.0, beside: bool = False) -> str:
    """What is said before a run: a line for each entry, the whole, memory and disk.

    Args:
        job: or the part of it that is carried out.
        folder: on the disk that the run writes to.
        spent: seconds that have gone by.
        beside: whether trainings are carried out beside each other.
    """
    lines = [f"{'expected':14}{'training':>10}{'evaluation':>12}{'export':>10}{'in all':>10}"]
    for name, cost in costs.entries.items():
        one = costs.forecast(job, name)
        if cost.problem:
            lines.append(f"{name:14}can't be measured: {cost.problem}")
            continue
        times = f" x {cost.times} seeds" if cost.times > 1 else ""
        if cost.trials:
            times += f", {cost.trials} trials before: {duration_text(costs.tuning(job, name))}"
        if cost.parts:
            times += f", parts of the data behind: {duration_text(costs.curve(job, name))}"
        parts = [duration_text(part) for part in (one.training, one.evaluation, one.export, one.total)]
        lines.append(f"{name:14}{parts[0]:>10}{parts[1]:>12}{parts[2]:>10}{parts[3]:>10}{times}")
    whole = spent + costs.seconds(job)
    memory, disk = memory_there(), shutil.disk_usage(folder).free
    together = ", one after another" if beside else ""
    lines.append(
        f"the whole run{together}: {duration_text(whole)}; memory {bytes_text(costs.memory_bytes)} of "
        f"{bytes_text(memory)}; disk {bytes_text(costs.disk_bytes)} of {bytes_text(disk)} that are free"
    )
    if costs.busy >= BUSY:
        lines.append(
            f"other processes take {costs.busy:.1f} of {psutil.cpu_count()} cores: without them it would be faster"
        )
    if costs.memory_bytes > memory:
        lines.append("warning: that is more memory than there is; a smaller batch_size or fewer bits need less")
    if costs.disk_bytes > disk:
        lines.append("warning: that is more than the disk has free")
    return "\n".join(lines)
