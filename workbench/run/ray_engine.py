"""The tasks of a run carried out by a Ray cluster, on this machine or on many."""

import logging
import signal
from types import TracebackType
from typing import Any, Self

from workbench.console import available_cores
from workbench.device import on_cpu
from workbench.errors import UserError
from workbench.run.folder import RunFolder
from workbench.run.tasks import Answer, Lost, Task
from workbench.run.worker import RETRIES, carry_out, threads_environment


class RayEngine:
    """Tasks of Ray (Moritz et al. 2018, arXiv:1712.05889), on this machine or a cluster's.

    The folder of the run, the recipe and the checkpoint must lie where every machine finds them under the same path.

    Args:
        address: of a cluster, such as "auto" or "ray://head:10001"; None begins one on this machine.
        jobs: at most so many at once; None for as many as the cluster has room for.
        threads: cores that a task takes.

    Raises:
        UserError: the cluster can't be reached, or has no machine with so many cores.
    """

    def __init__(self, folder: RunFolder, address: str | None, jobs: int | None, threads: int) -> None:
        import ray

        self._ray: Any = ray
        self._path, self._jobs = str(folder.path.resolve()), jobs
        heeded = signal.getsignal(signal.SIGTERM)  # Ray puts its own in the place
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
        signal.signal(signal.SIGTERM, heeded)
        cores = [node["Resources"].get("CPU", 0) for node in self._ray.nodes() if node["Alive"]]
        if threads > (most := max(cores, default=0)):
            self._ray.shutdown()
            raise UserError(f"no machine of the cluster has {threads} cores for a task: the largest has {most:.0f}")
        needs = {"num_cpus": threads, "num_gpus": 1 if self._ray.cluster_resources().get("GPU") and not on_cpu() else 0}
        # What dies is begun anew by Ray, where there is room; what raises is not.
        self._remote = self._ray.remote(max_retries=RETRIES, **needs)(carry_out)
        self._under_way: dict[Any, Task] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for reference in self._under_way:
                self._ray.cancel(reference, force=True)
        finally:
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
        task, exceptions = self._under_way.pop(reference), self._ray.exceptions
        try:
            return task, self._ray.get(reference)
        except exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError | OSError):
                raise error.cause from error
            raise
        except exceptions.RayError as error:
            said = " ".join(str(error).split())[:300]
            if isinstance(
                error, exceptions.WorkerCrashedError | exceptions.NodeDiedError | exceptions.OutOfMemoryError
            ):
                return task, Lost(reason=f"its process died {RETRIES + 1} times: {said}")
            raise UserError(f"Ray does not carry out {task}: {said}; go on with --resume") from error
