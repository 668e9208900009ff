"""Where the tasks of a run are carried out: in this process, by others on this machine, or by a Ray cluster."""

import logging
import multiprocessing
import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Protocol, Self

from workbench.console import available_cores, bytes_text
from workbench.device import device_count, memory_there
from workbench.errors import UserError
from workbench.export import FreshProcess
from workbench.processes import begun, count, fsdp, tell
from workbench.run.clock import RunClock
from workbench.run.folder import RunFolder
from workbench.run.options import Options
from workbench.run.prepare import Job
from workbench.run.schedule import Schedule
from workbench.run.tasks import Answer, Lost, Task, TrialTask
from workbench.run.worker import RETRIES, serve, threads_environment

logger = logging.getLogger(__name__)

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


def require_options(options: Options) -> None:
    """See that a run can be carried out as it was asked for, before anything is prepared.

    Raises:
        UserError: jobs beside each other and processes that train one model together, a recipe that is no file, a
            limited time, no Ray, or one device for several processes, or quantized weights that FSDP is to split.
    """
    if begun() > count():
        raise UserError(
            f"{begun()} processes were begun to train one model together: that is for the command, workbench.run"
        )
    if fsdp() is not None and options.bits is not None and options.bits < 16:
        raise UserError(f"FSDP splits weights of 32 or 16 bits: leave out --bits {options.bits}, or FSDP")
    if options.device and ":" in options.device and (count() > 1 or is_parallel(options)):
        raise UserError(
            f"--device {options.device} is one of several, and each process takes another: name only its kind, and "
            "those to be used in CUDA_VISIBLE_DEVICES"
        )
    if not is_parallel(options):
        return
    if count() > 1:
        raise UserError(
            f"{count()} processes were begun to train one model together: leave out --jobs and --engine, or begin one"
        )
    if options.recipe is None:
        raise UserError("jobs beside each other load the recipe's file, and this recipe is none: save it as a file")
    if options.minutes is not None:
        raise UserError(
            "--minutes, or the recipe's Training(minutes=...), shares out the time of one process: leave it out with "
            "--engine ray and --jobs, and cut with --limit or the recipe's Training(max_steps=...)"
        )
    if options.engine == "ray" and find_spec("ray") is None:
        raise UserError("--engine ray needs Ray: pip install ray")


def require_memory(options: Options, memory_bytes: int) -> None:
    """See that as many tasks as are to be carried out at once have room.

    Args:
        memory_bytes: that a task takes.

    Raises:
        UserError: they don't.
    """
    jobs, whole, devices = options.jobs or 1, memory_there(), device_count()
    if options.engine == "local" and -(-jobs // devices) * memory_bytes > whole:
        fit = max(1, devices * (whole // memory_bytes))
        there = bytes_text(whole) if devices == 1 else f"{bytes_text(whole)} on each of {devices} devices"
        raise UserError(f"{jobs} jobs take {bytes_text(memory_bytes)} each, and there are {there}: --jobs {fit} fits")


def threads_of(options: Options) -> int:
    """With how many threads each task of a run by several processes computes."""
    return options.cpus or max(1, available_cores() // (options.jobs or 1))


def engine_of(job: Job, folder: RunFolder, process: FreshProcess, clock: RunClock) -> Engine:
    """The engine that a run's options name.

    Args:
        job, process, clock: of a run that this process carries out itself, see `ThisProcess`.

    Raises:
        UserError: the Ray cluster can't be reached, or has no machine with as many cores as a task takes.
    """
    options = folder.options
    if not is_parallel(options):
        return ThisProcess(job, folder, process, clock)
    if options.engine == "ray":
        from workbench.run.ray_engine import RayEngine

        return RayEngine(folder, options.address, options.jobs, threads_of(options))
    return LocalEngine(folder, options.jobs or 1, threads_of(options))


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
        task, self._task = self._task, None
        assert task is not None
        tell(task)
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
        devices = device_count()
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
            place.end(at_once=error is not None)
        for place in self._places:
            place.join()

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
            logger.error("%s: what its process said is in %s", task, self._arguments[1])
            return (Lost(reason=f"{why}, {self._died} times{memory}"),)
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

    def end(self, at_once: bool) -> None:
        """Let the process end.

        Args:
            at_once: in the middle of what it does.
        """
        if self._process is None:
            return
        self.connection.close()
        if at_once:
            self._process.terminate()

    def join(self) -> None:
        """Wait for the end of the process, and end it if it takes too long."""
        if self._process is None:
            return
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
