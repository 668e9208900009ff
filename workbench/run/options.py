"""What was asked for of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from datetime import date
from typing import Any

from workbench.run.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Options:
    """What was asked for; kept in the output folder, so that a run can be resumed.

    Attributes:
        recipe, recipe_sha256: path of the recipe's file and its checksum; None where it is no file.
        methods: None for the recipe's own.
        model: None for the recipe's checkpoint.
        bits: how the frozen base is held while training.
        engine, address: where tasks are carried out, "local" or "ray", and the address of a Ray cluster.
        jobs, cpus: how many tasks at once, and with how many cores each; None for one, and for an equal share until it
            is known.
        curve: whether parts of the training rows are trained on, too.
        language: in which the report is written, "en" or "zh".
        price: of an hour of the machine, as it was written, such as "1.20 USD"; None where it is not stated.
        id, track: of the run in trackers, None of older ones; which are told of its trainings beside TensorBoard.
        tune: trials by which the settings of each method are chosen; None takes them as they are.
        seed, seeds: the first seed, and how many.
        limit: at most so many examples of each split; None for all.
        minutes: wall-clock time of the whole run; None for no limit.
        plan: what of the job is carried out to end in time; None while that is not known.
        neighbours: modules beside the recipe's file that it imports, with their checksums; None of older runs.
        base_sha256: of the base's weights and configuration; None until they were looked at.
        data: checksum of the prepared data; None until they were prepared.
        versions: of the libraries with which it was begun; None until it was.
        code: text of the recipe's file and of what it imports beside it, by name; None of older runs.
        command: that does the same.
        git: of the recipe's folder, the commit, and whether something was changed since; None where there is none.
        precision: in what it is scored, merged and proven, one of `SHIPPED`.
        device: on which models are held, as PyTorch names it; None for the accelerator, if there is one.
        day: on which it was begun, as 2026-01-31, for chat templates that write the date.
    """

    recipe: str | None
    recipe_sha256: str | None
    methods: list[str] | None
    model: str | None
    bits: int
    seed: int
    seeds: int
    limit: int | None
    minutes: float | None = None
    plan: Plan | None = None
    day: str | None = None
    base_sha256: str | None = None
    data: str | None = None
    versions: Mapping[str, str] | None = None
    neighbours: Mapping[str, str] | None = None
    precision: str = "float32"
    device: str | None = None
    tune: int | None = None
    price: str | None = None
    language: str = "en"
    track: Sequence[str] = ()
    id: str | None = None
    curve: bool = False
    engine: str = "local"
    jobs: int | None = None
    cpus: int | None = None
    address: str | None = None
    code: Mapping[str, str] | None = None
    command: str | None = None
    git: Mapping[str, str | bool] | None = None


def day_of(options: Options) -> date | None:
    """The day on which a run was begun; None of one that older versions began."""
    return date.fromisoformat(options.day) if options.day else None


def options_of(values: Mapping[str, Any]) -> Options:
    """Options as they were written.

    Raises:
        KeyError, TypeError, ValueError: they are none.
    """
    from pydantic import TypeAdapter

    known = {f.name: values[f.name] for f in fields(Options) if f.default is MISSING or f.name in values}
    options = TypeAdapter(Options).validate_python(known)
    day_of(options)
    return options
