"""The time of a run: until when it has to end, what of the job fits into that, and what is recorded of it."""

import math
import time
from collections import Counter
from collections.abc import Container
from dataclasses import replace

from workbench.errors import UserError
from workbench.results import Budget
from workbench.run.clock import Key
from workbench.run.curve import parts_left
from workbench.run.entries import TunedEntry
from workbench.run.folder import RunFolder
from workbench.run.forecast import Costs, Pending
from workbench.run.plan import LEAST_EXAMPLES, LEAST_STEPS, Plan, fit, planned
from workbench.run.prepare import Job
from workbench.run.trial import trials_of
from workbench.run.tuning import pending_trials
from workbench.training import steps_in
from workbench.training.rows import lengths


def deadline_of(folder: RunFolder, began: float) -> float | None:
    """When a run has to end; one that goes on after an interruption keeps its plan and takes the time it takes."""
    minutes = folder.options.minutes
    return None if minutes is None or folder.options.plan is not None else began + 60 * minutes


def pending(job: Job, folder: RunFolder, done: Container[Key] = ()) -> dict[str, Pending]:
    """Entry -> how often it is still to be carried out, of those of which not all is `done`."""
    times = Counter(trial.entry for trial in trials_of(job, folder.options) if (trial.entry, trial.seed) not in done)
    trials, parts = pending_trials(job, folder), parts_left(job, folder)
    return {
        entry.name: Pending(times=times[entry.name], trials=trials.get(entry.name, 0), parts=parts.get(entry.name, ()))
        for entry in job.entries
        if times[entry.name] or parts.get(entry.name)
    }


def fitted(job: Job, folder: RunFolder, costs: Costs, began: float) -> Job:
    """The part of `job` that ends within the minutes of the run; the plan for it is kept with the options.

    Raises:
        UserError: no part of any use does.
    """
    minutes = folder.options.minutes
    if minutes is None or folder.options.plan is not None:
        return job
    left = 60 * minutes - (time.perf_counter() - began)
    plan = fit(costs.amounts(job), left, minutes)
    if not isinstance(plan, Plan):
        least = math.ceil((plan + 60 * minutes - left) / 60)
        names = [entry.name for entry in job.entries if isinstance(entry, TunedEntry) and entry.method.trains]
        fewer = f", or fewer methods than {', '.join(names)} (--methods)" if len(names) > 1 else ""
        raise UserError(
            f"{minutes:g} minutes are too few on this machine for {LEAST_STEPS} steps of each method and "
            f"{LEAST_EXAMPLES} answers of each split: give --minutes {least}{fewer}, or a smaller --model"
        )
    folder.options = replace(folder.options, plan=plan)
    return planned(job, plan)


def budget_of(job: Job, folder: RunFolder, costs: Costs, began: float) -> Budget:
    """What the run is expected to take, and what part of the recipe's job it is."""
    rows, batch_size = job.rows.train, job.recipe.training.batch_size
    per_step = int(lengths(rows).sum()) * batch_size / len(rows)
    return Budget(
        minutes=folder.options.minutes,
        seconds=time.perf_counter() - began + costs.seconds(job),
        memory_bytes=costs.memory_bytes,
        disk_bytes=costs.disk_bytes,
        steps=job.steps,
        full_steps=steps_in(folder.recipe.training, len(rows))[0],
        train_tokens=round(job.steps * per_step),
        evaluated={split: len(pairs) for split, pairs in job.evaluated.items()},
        evaluated_of={split: len(job.pairs[split]) for split in job.evaluated},
    )
