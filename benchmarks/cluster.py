"""How long a larger comparison would take on so many machines, from the times of a finished run.

    python benchmarks/cluster.py RUN --seeds 5 --tune 12 --machines 1,4,16,100
    python benchmarks/cluster.py RUN --seeds 3 --tune 6 --machines 2 --price 2.50

The run's own schedule (`workbench.run.schedule`) is asked what can be begun, and answered by a clock: a task takes as
long as the run's tasks of its kind and entry did on average, with everything around them, by a number drawn for each
with the spread that they had; losses of trials are drawn, too. A machine carries out one task at a time and takes
`--start` seconds to begin with. Nothing is trained.
"""

import argparse
import heapq
import logging
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Self

import measure  # noqa: F401  quiets the libraries before they are imported
import numpy as np

from workbench.console import duration_text
from workbench.results import Results, RunRecord
from workbench.run.engines import carried_out
from workbench.run.folder import RunFolder
from workbench.run.prepare import Job
from workbench.run.prepared import prepare_run
from workbench.run.schedule import Schedule
from workbench.run.tasks import Answer, PartTask, Task, TrialTask, TuningTask
from workbench.tune import Outcome


@dataclass(frozen=True)
class Times:
    """What tasks take, in seconds: mean and relative spread by entry."""

    trials: dict[str, float]
    trainings: dict[str, float]
    spread: float

    def of(self, task: Task, random: np.random.Generator) -> float:
        """Of one task, drawn."""
        if isinstance(task, TuningTask):
            mean = self.trials[task.entry]
        elif isinstance(task, TrialTask):
            mean = self.trainings[task.trial.entry]
        else:
            mean = task.part * self.trainings[task.entry]
        return mean * math.exp(self.spread * random.standard_normal())


def times_of(results: Results) -> Times:
    """The times of a finished run."""
    assert results.seconds is not None
    runs = [run for run in results.runs if run.done]
    around = results.seconds.other / len(runs)
    each = {name: [_seconds(run) for run in runs if run.method == name] for name in {run.method for run in runs}}
    spreads = [np.std(np.log(some), ddof=1) for some in each.values() if len(some) > 1]
    return Times(
        trials={one.entry: one.seconds / len(one.trials) for one in results.tuning if one.trials},
        trainings={name: float(np.mean(some)) + around for name, some in each.items()},
        spread=float(np.mean(spreads)) if spreads else 0.0,
    )


def _seconds(run: RunRecord) -> float:
    return run.train_seconds + run.evaluation_seconds + run.export_seconds


class Simulated:
    """An engine whose tasks take time on a clock alone.

    Attributes:
        now: seconds since the run began.
        busy: machine seconds that tasks took.
    """

    def __init__(self, machines: int, start: float, times: Times, results: Results, folder: RunFolder) -> None:
        self.now = self.busy = 0.0
        self._times, self._results, self._folder = times, results, folder
        self._random, self._number = np.random.default_rng(0), count()
        self._fresh, self._idle, self._start = machines, 0, start
        self._under_way: list[tuple[float, int, Task]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: Any) -> None:
        pass

    @property
    def free(self) -> int:
        """Machines that do nothing."""
        return self._fresh + self._idle

    def start(self, task: Task) -> None:
        """Begin a task, on a machine that has begun before if there is one."""
        seconds = self._times.of(task, self._random)
        if self._idle:
            self._idle -= 1
        else:
            self._fresh -= 1
            seconds += self._start
        self.busy += seconds
        heapq.heappush(self._under_way, (self.now + seconds, next(self._number), task))

    def wait(self) -> tuple[Task, Answer]:
        """The task that ends next."""
        self.now, _, task = heapq.heappop(self._under_way)
        self._idle += 1
        return task, self._answer(task)

    def _answer(self, task: Task) -> Answer:
        if isinstance(task, TuningTask):
            loss = float(self._random.uniform(1, 2))
            return Outcome(status="done", seconds=1.0, loss=loss, curve={1: loss})
        if isinstance(task, PartTask):
            return None
        self._folder.trial(task.trial.entry, task.trial.seed).path.mkdir(parents=True, exist_ok=True)
        record = next(run for run in self._results.runs if run.method == task.trial.entry)
        return replace(record, seed=task.trial.seed)


def simulated(job: Job, folder: RunFolder, results: Results, machines: int, start: float) -> tuple[int, float, float]:
    """Tasks, seconds until the run ends, and machine seconds that its tasks took."""
    engine = Simulated(machines, start, times_of(results), results, folder)
    tasks = sum(1 for _ in carried_out(Schedule(job, folder, {}, {}), engine))
    return tasks, engine.now, engine.busy


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("run", type=Path, help="a finished run with --tune")
    p.add_argument("--seeds", type=int, default=3, metavar="K")
    p.add_argument("--tune", type=int, default=6, metavar="N")
    p.add_argument("--curve", action="store_true")
    p.add_argument("--machines", default="1,2,4,8,16,100", metavar="A,B")
    p.add_argument("--start", type=float, default=15.0, metavar="SECONDS")
    p.add_argument("--price", type=float, default=1.0, metavar="NUMBER", help="of a machine's hour")
    asked = p.parse_args(arguments)
    logging.getLogger("workbench").setLevel(logging.ERROR)
    run = RunFolder.open(asked.run)
    results = run.read_results()
    job = prepare_run(run)
    print(
        "| machines | tasks | wall clock | at work on average | share of their time | paid |\n|---|---|---|---|---|---|"
    )
    for machines in map(int, asked.machines.split(",")):
        with tempfile.TemporaryDirectory() as there:
            options = replace(run.options, seeds=asked.seeds, tune=asked.tune, curve=asked.curve)
            folder = RunFolder(Path(there), options, run.recipe)
            tasks, seconds, busy = simulated(job, folder, results, machines, asked.start)
        used, paid = busy / (machines * seconds), machines * seconds / 3600 * asked.price
        row = machines, tasks, duration_text(seconds), f"{busy / seconds:.1f}", f"{100 * used:.0f} %", f"{paid:.2f}"
        print(f"| {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    main()
