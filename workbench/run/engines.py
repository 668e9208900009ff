"""Where the tasks of a run are carried out: in this process, by others on this machine, or by a Ray cluster."""

import logging
import multiprocessing
import os
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Protocol, Self

import psutil
import torch

from workbench.console import available_cores, bytes_text
from workbench.errors import UserError
from workbench.export import FreshProcess
from workbench.processes import count, from_first
from workbench.run.clock import RunClock
from workbench.run.folder import Options, RunFolder
from workbench.run.prepare import Job
from workbench.run.schedule import Schedule
from workbench.run.tasks import Answer, Lost, Task, TrialTask
from workbench.run.worker import carry_out, serve, threads_environment

logger = logging.getLogger(__name__)

# A task whose process died is begun anew so many times, each time in another process.
RETRIES = 2
# Seconds in which a process may end by itself.
PATIENCE = 5.0


class Engine(Protocol):
    """What carries out tasks."""

    @property
    def free(self) -> int:
        """How many tasks can be begun now."""

    def start(self, task: Task) -> None:
        """Begin a task."""

    def wait(self) -> tuple[Task, Answer]:
        """The next answer, of any of the tasks that were begun.

        Raises:
            UserError, OSError: what ends the whole run.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, *raised: Any) -> None: ...


def carried_out(schedule: Schedule, engine: Engine) -> Iterator[Task]:
    """Carry out a schedule; after each answer, the task that it was to.

    Raises:
        UserError, OSError: what ends the whole run.
    """
    under_way = 0
    while True:
        for task in schedule.ready()[: engine.free]:
            schedule.begin(task)
            engine.start(task)
            under_way += 1
        if not under_way:
            return
        task, answer = engine.wait()
        under_way -= 1
        schedule.tell(task, answer)
        yield task


def is_parallel(options: Options) -> bool:
    """Whether tasks of a run are carried out by other processes."""
    return options.engine != "local" or (options.jobs or 1) > 1


def require_engine(options: Options, memory_bytes: int) -> None:
    """See that a run can be carried out beside itself.

    Args:
        memory_bytes: that a task takes.

    Raises:
        UserError: its recipe is no file, its time is limited, or there is no memory for as many at once.
    """
    if count() > 1:
        raise UserError(
            f"{count()} processes were begun to train one model together: leave out --jobs and --engine, or begin one"
        )
    if options.recipe is None:
        raise UserError("jobs beside each other load the recipe's file, and this recipe is none: save it as a file")
    if options.minutes is not None:
        raise UserError(
            "--minutes shares out the time of one process: leave it out with --engine ray and --jobs, and cut with "
            "--limit or the recipe's Training(max_steps=...)"
        )
    jobs, whole = options.jobs or 1, psutil.virtual_memory().total
    if options.engine == "local" and jobs * memory_bytes > whole:
        fit = max(1, whole // memory_bytes)
        raise UserError(
            f"{jobs} jobs take {bytes_text(memory_bytes)} each, and there are {bytes_text(whole)}: --jobs {fit} fits"
        )


def engine_of(job: Job, folder: RunFolder, process: FreshProcess, clock: RunClock) -> Engine:
    """The engine that a run's options name.

    Args:
        job, process, clock: of a run that this process carries out itself, see `ThisProcess`.

    Raises:
        UserError: Ray is not installed, or its cluster can't be reached.
    """
    options = folder.options
    if not is_parallel(options):
        return ThisProcess(job, folder, process, clock)
    jobs = options.jobs or 1
    threads = options.cpus or max(1, available_cores() // jobs)
    if options.engine == "ray":
        return RayEngine(folder, options.address, options.jobs, threads)
    return LocalEngine(folder, jobs, threads)


class ThisProcess:
    """One task after the other, as its time allows; processes that train together are told of each.

    Args:
        job: without settings that tuning chooses.
        process: in which exports are read, if one is open already.
    """

    def __init__(self, job: Job, folder: RunFolder, process: FreshProcess, clock: RunClock) -> None:
        self._job, self._folder, self._process, self._clock = job, folder, process, clock
        self._task: Task | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        """Nothing is left open."""

    @property
    def free(self) -> int:
        """How many tasks can be begun now."""
        return int(self._task is None)

    def start(self, task: Task) -> None:
        """The task that is to be carried out next."""
        self._task = task

    def wait(self) -> tuple[Task, Answer]:
        """Carry out the task, and give its answer.

        Raises:
            UserError, OSError: what ends the whole run.
        """
        task, self._task = from_first(self._task), None
        assert task is not None
        answer = task.carry_out(self._job, self._folder, self._process, self._clock)
        if isinstance(task, TrialTask):
            self._clock.drop(task.trial.entry, task.trial.seed)
        return task, answer


class LocalEngine:
    """Processes on this machine, each with its share of the cores, and with a GPU where there are some.

    Args:
        folder: of the run.
        jobs: how many.
        threads: with which each computes.
    """

    def __init__(self, folder: RunFolder, jobs: int, threads: int) -> None:
        logs = folder.workers
        logs.mkdir(exist_ok=True)
        devices = torch.cuda.device_count()
        self._places = [
            _Place(
                str(folder.path.resolve()),
                str(logs.resolve() / f"{number}.log"),
                {**threads_environment(threads), **_device(number, devices)},
            )
            for number in range(jobs)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for place in self._places:
            place.close(at_once=error is not None)

    @property
    def free(self) -> int:
        """How many tasks can be begun now."""
        return sum(place.task is None for place in self._places)

    def start(self, task: Task) -> None:
        """Begin a task, in a process that is free."""
        next(place for place in self._places if place.task is None).start(task)

    def wait(self) -> tuple[Task, Answer]:
        """The next answer; a task whose process died is begun anew.

        Raises:
            UserError, OSError: what ends the whole run.
        """
        while True:
            busy = {place.connection: place for place in self._places if place.task is not None}
            answered = wait(list(busy))
            for place in (place for connection, place in busy.items() if connection in answered):
                task = place.task
                assert task is not None
                if (found := place.answer()) is not None:
                    return task, found[0]


class _Place:
    """A process for one task at a time, begun when it is first needed and anew where it died."""

    def __init__(self, path: str, log: str, environment: Mapping[str, str]) -> None:
        self.task: Task | None = None
        self._arguments = path, log, environment
        self._process: Any = None
        self._connection: Connection | None = None
        self._died = 0

    @property
    def connection(self) -> Connection:
        """By which its answer comes."""
        assert self._connection is not None
        return self._connection

    def start(self, task: Task) -> None:
        self.task, self._died = task, 0
        self._ask(task)

    def answer(self) -> tuple[Answer] | None:
        """What came of its task; None where the process died, and the task was begun anew.

        Raises:
            UserError, OSError: what ends the whole run.
        """
        task = self.task
        assert task is not None
        try:
            found, error = self.connection.recv()
        except (EOFError, ConnectionResetError):
            return self._lost(task)
        if error is not None:
            raise error
        self.task = None
        return (found,)

    def _lost(self, task: Task) -> tuple[Answer] | None:
        self._process.join()
        code = self._process.exitcode
        self._died += 1
        self._connection = self._process = None
        why = f"its process ended with exit code {code}" if code >= 0 else f"its process was ended by signal {-code}"
        if self._died > RETRIES:
            self.task = None
            memory = "; perhaps for want of memory" if code == -9 else ""
            return (Lost(reason=f"{why}, {self._died} times{memory}; see {self._arguments[1]}"),)
        logger.warning("%s: %s; it is begun anew", task, why)
        self._ask(task)
        return None

    def _ask(self, task: Task) -> None:
        if self._connection is None:
            # Spawned: threads of this process' libraries don't come along with a fork.
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=serve, args=(*self._arguments, theirs))
            self._process.start()
            theirs.close()  # so that its death is an end of the connection
        try:
            self._connection.send(task)
        except OSError:  # it died while it had nothing to do
            self._process.join()
            self._connection = None
            self._ask(task)

    def close(self, at_once: bool) -> None:
        """Let the process end.

        Args:
            at_once: in the middle of what it does.
        """
        if self._process is None:
            return
        self.connection.close()
        if at_once:
            self._process.terminate()
        self._process.join(PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _device(number: int, devices: int) -> dict[str, str]:
    """Of several GPUs, the one of a process, by the name that the caller's environment has for it."""
    if devices < 2:
        return {}
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = given.split(",") if given else [str(one) for one in range(devices)]
    return {"CUDA_VISIBLE_DEVICES": names[number % devices]}


class RayEngine:
    """Tasks of Ray (Moritz et al. 2018, arXiv:1712.05889), on this machine or a cluster's.

    The folder of the run, the recipe and the checkpoint must lie where every machine finds them under the same path.

    Args:
        address: of a cluster, such as "auto" or "ray://head:10001"; None begins one on this machine.
        jobs: at most so many at once; None for as many as the cluster has room for.
        threads: cores that a task takes.

    Raises:
        UserError: Ray is not installed, or the cluster can't be reached.
    """

    def __init__(self, folder: RunFolder, address: str | None, jobs: int | None, threads: int) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError("--engine ray needs Ray: pip install ray") from error
        self._ray: Any = ray
        self._path, self._jobs = str(folder.path.resolve()), jobs
        began: dict[str, Any] = {} if address else {"num_cpus": max((jobs or 1) * threads, available_cores())}
        try:
            self._ray.init(
                address=address or "local",
                include_dashboard=False if address is None else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": threads_environment(threads)},
                **began,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"the Ray cluster {address or 'on this machine'} can't be reached: {error}") from error
        needs = {"num_cpus": threads, "num_gpus": 1 if self._ray.cluster_resources().get("GPU") else 0}
        # What dies is begun anew by Ray, where there is room; what raises is not.
        self._remote = self._ray.remote(max_retries=RETRIES, **needs)(carry_out)
        self._under_way: dict[Any, Task] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for reference in self._under_way:
            self._ray.cancel(reference, force=True)
        self._ray.shutdown()

    @property
    def free(self) -> int:
        """How many tasks can be begun now."""
        most = self._jobs or max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        return max(0, most - len(self._under_way))

    def start(self, task: Task) -> None:
        """Begin a task."""
        self._under_way[self._remote.remote(self._path, task)] = task

    def wait(self) -> tuple[Task, Answer]:
        """The next answer.

        Raises:
            UserError, OSError: what ends the whole run.
        """
        (reference,), _ = self._ray.wait(list(self._under_way), num_returns=1)
        task = self._under_way.pop(reference)
        try:
            return task, self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError | OSError):
                raise error.cause from error
            raise
        except self._ray.exceptions.RayError as error:
            said = " ".join(str(error).split())[:300]
            return task, Lost(reason=f"its process died {RETRIES + 1} times: {said}")
