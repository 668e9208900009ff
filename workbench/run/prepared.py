"""What a run's options ask for, prepared: by the process that carries it out, and by any that helps it."""

from dataclasses import replace

from workbench.data.store import Store
from workbench.run.folder import RunFolder
from workbench.run.options import day_of
from workbench.run.plan import planned
from workbench.run.prepare import Job, prepare
from workbench.training.trackers import ALWAYS, require_trackers


def prepare_run(folder: RunFolder, store: Store | None = None) -> Job:
    """Prepare what the options of a run ask for.

    Args:
        store: where the prepared data go, or lie; None takes a temporary one.

    Raises:
        UserError: anything the user has to mend.
    """
    options = folder.options
    require_trackers(options.track)
    job = prepare(
        folder.recipe,
        methods=options.methods,
        model=options.model,
        bits=options.bits,
        precision=options.precision,
        limit=options.limit,
        store=store,
        recipe_sha256=options.recipe_sha256,
        day=day_of(options),
    )
    folder.require_base(job.checkpoint.path)
    trackers = tuple(dict.fromkeys((ALWAYS, *options.track)))
    return planned(replace(job, trackers=trackers, group=folder.path.resolve().name, id=options.id or ""), options.plan)
