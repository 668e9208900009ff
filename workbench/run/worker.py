"""A process that carries out tasks of a run: beside others on this machine, or on a machine of a cluster."""

import logging
import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.run.tasks import Answer, Task

logger = logging.getLogger(__name__)

# A task whose process died is begun anew so many times, each time in another process.
RETRIES = 2


def threads_environment(threads: int) -> dict[str, str]:
    """The environment of a process that computes with so many threads; to be set before it imports PyTorch."""
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads))


class Worker:
    """A run's job, prepared once, and tasks of it carried out one after another.

    Args:
        path: of the run's folder, in which the data lie as the run's own process prepared them.

    Raises:
        UserError: the recipe, the data or the checkpoint can't be had here, or are other ones.
    """

    def __init__(self, path: Path) -> None:
        from workbench.device import choose
        from workbench.errors import UserError
        from workbench.export import FreshProcess
        from workbench.models import skip_what_is_there
        from workbench.run.folder import RunFolder
        from workbench.run.prepared import prepare_run

        self.folder = RunFolder.open(path)
        choose(self.folder.options.device)
        # Processes that wrote into one file what frozen layers give would read each other's half of it.
        kept = self.folder.prepared.folder / f"{socket.gethostname()}-{os.getpid()}"
        kept.mkdir(parents=True, exist_ok=True)
        self.job = replace(prepare_run(self.folder, self.folder.prepared), kept=kept)
        if self.job.data.content != self.folder.options.data:
            raise UserError(f"the data of {path} have changed since they were prepared: begin a new run")
        self.process = FreshProcess()
        skip_what_is_there()

    def carry_out(self, task: "Task") -> "Answer":
        """The answer to a task; one that failed says so.

        Raises:
            OSError: the disk is full.
        """
        from workbench.run.clock import RunClock

        logger.info("%s", task)
        return task.carry_out(self.job, self.folder, self.process, RunClock())

    def take_part(self, task: "Task") -> None:
        """Train together with the process that carries out a task.

        Raises:
            MethodError: it failed, here or there.
        """
        training = task.training(self.job, self.folder)
        if training is not None:
            training.take_part()


@cache
def _of_this_process(path: str) -> Worker:
    from workbench.console import quiet_libraries
    from workbench.errors import UserError

    quiet_libraries()
    try:
        return Worker(Path(path))
    except (UserError, OSError):
        raise
    except Exception as error:  # it would be the same for every task
        said = f"{type(error).__name__}: {error}"
        raise UserError(f"the run can't be prepared by a process on {socket.gethostname()}: {said}") from error


def carry_out(path: str, task: "Task") -> "Answer":
    """The answer to a task of the run in the folder `path`, whose job this process prepares once.

    Raises:
        UserError: see `Worker`.
        OSError: the disk is full.
    """
    return _of_this_process(path).carry_out(task)


def take_part() -> None:
    """Train together with the process that carries out a run, which says what, until the run is over.

    Raises:
        UserError: see `Worker`.
        SystemExit: the processes are not in step any more.
    """
    from workbench.errors import MethodError, UserError
    from workbench.processes import from_first
    from workbench.run.method_training import BEGINS

    path: str | None = from_first()
    if path is None:
        return
    worker = Worker(Path(path))
    task: Any = None
    while (told := from_first()) is not None:
        if told != BEGINS:  # a task, of which nobody knows yet whether it comes to a training
            task = told
            continue
        try:
            worker.take_part(task)
        except (MethodError, UserError) as error:
            logger.debug("%s: %s", task, error)  # the process that carries out the run tells it
        except Exception:  # the same there; the others go on
            logger.exception("%s failed", task)


def serve(path: str, log: str, environment: Mapping[str, str], connection: Connection) -> None:
    """Answer tasks until nobody asks any more; what this process has to say goes to the file `log`.

    The answer to a task is a pair: what came of it and None, or None and the error that ends the run.
    """
    os.environ.update(environment)
    with open(log, "ab", buffering=0) as file:  # noqa: PTH123  its descriptor is what is needed
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from workbench.errors import UserError

    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            connection.send((carry_out(path, task), None))
        except (UserError, OSError) as error:
            logger.exception("%s", task)
            plain = UserError(str(error)) if isinstance(error, UserError) else OSError(*error.args)
            connection.send((None, plain))  # as what can be sent for certain


def _end_with_parent() -> None:
    """A run that was killed leaves no training behind that would write into its folder."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
