"""A method of a run as trackers call it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from workbench.methods import Method
from workbench.results import Score
from workbench.run.folder import TrialFolder
from workbench.run.prepare import Job
from workbench.sources import public_name
from workbench.training.trackers import Several, Tracked


class Tracking(Several):
    """The trackings of a method, and the scores that they are told in the end."""

    def __init__(self, names: Sequence[str], tracked: Tracked) -> None:
        super().__init__(names, tracked)
        self.scores: Mapping[str, Score] = {}


@contextmanager
def tracking(
    job: Job, method: Method, seed: int, settings: Mapping[str, Any], folder: TrialFolder
) -> Iterator[Tracking]:
    """While the block runs, the trackers of the job are open; then they are told the scores, if there are any.

    Args:
        settings: of the trial, before those of the recipe.
    """
    chosen = {**method.settings, **job.settings(method, settings), "learning_rate": job.learning_rate(method, settings)}
    training = {name: value for name, value in vars(job.recipe.training).items() if name != "extra"}
    told = {
        "method": method.name,
        "seed": seed,
        "bits": job.bits,
        "base": public_name(job.checkpoint.name),
        **training,
        **chosen,
    }
    plain = {name: value for name, value in told.items() if isinstance(value, str | int | float | bool | None)}
    name = f"{job.name_of(method)}-seed{seed}"
    project = job.recipe.name or "workbench"
    opened = Tracking(
        job.trackers,
        Tracked(project=project, group=job.group, run=job.id, name=name, settings=plain, folder=folder.path),
    )
    try:
        yield opened
    finally:
        opened.close({label: score.value for label, score in opened.scores.items()})
