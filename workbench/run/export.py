"""A merged checkpoint of a method of a finished run, later."""

from dataclasses import replace
from pathlib import Path

import torch

from workbench import files
from workbench.errors import UserError, unknown
from workbench.evaluation import predict
from workbench.generation.sampling import Sampling
from workbench.methods import NotMergeable, find_method
from workbench.results import ExportRecord, RunRecord
from workbench.run.cards import BASES
from workbench.run.data_info import data_of, require_same_data
from workbench.run.entries import TunedEntry
from workbench.run.folder import RunFolder
from workbench.run.manifest import require_unchanged
from workbench.run.merge import PROOF_PROMPTS, merge
from workbench.run.prepare import Job
from workbench.run.prepared import prepare_run
from workbench.run.saved import open_saved

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def export_method(
    folder: RunFolder,
    name: str,
    to: Path,
    *,
    seed: int | None = None,
    precision: str | None = None,
    base: str | None = None,
) -> ExportRecord:
    """Make a merged checkpoint of the method called `name` of a run, and prove it.

    Args:
        to: where it goes; must not exist.
        precision: of the saved weights, "float32", "bfloat16" or "float16"; None for that in which the run was scored.
            A language model that is rounded behind its scoring is for `workbench.run.formats` to score anew.
        seed: of a run with several; None takes the first.
        base: for a run at 8 or 4 bits, "original" or "dequantized" weights; None takes the better.

    Returns:
        How it went. If it is not merged, there is nothing at `to`.

    Raises:
        UserError: the run has no such method or seed, the method failed, it can't become a merged checkpoint, or
            what it left was changed since, another process works in the run, or `to` exists.
    """
    precision = precision or folder.options.precision
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    require_new_folder(to)
    with folder.locked(reading=True):
        record = mergeable_record(folder, name, seed)
        if is_rounded(record, precision):
            raise UserError(f'{precision} is coarser than what was scored: take export_as("hf", ...), which scores it')
        return export_record(folder, record, to, precision, base)


def is_rounded(record: RunRecord, precision: str) -> bool:
    """Whether an export in a precision would be a coarser language model than what the run scored and proved."""
    return precision not in ("float32", record.precision) and record.head is None


def mergeable_record(folder: RunFolder, name: str, seed: int | None) -> RunRecord:
    """The record of a method that can become a merged checkpoint, whose files are as the run left them.

    Raises:
        UserError: it can't, they aren't, or it was not carried to its end.
    """
    record = finished_record(folder, name, seed)
    require_unchanged(folder.trial(name, record.seed), record)
    if record.baseline:
        raise UserError(f"{name} can't become a plain checkpoint: {record.export.reason}")
    if isinstance(known := find_method(record.method_name).mergeability(), NotMergeable):
        raise UserError(f"{name} can't become a plain checkpoint: {known.reason}")
    return record


def export_record(folder: RunFolder, record: RunRecord, to: Path, precision: str, base: str | None) -> ExportRecord:
    """See `export_method`; of a record of `mergeable_record`, in a folder that is locked."""
    name, method = record.method, find_method(record.method_name)
    if base is not None and (record.bits >= 16 or method.trains_base):
        raise UserError(f"--base is for adapters trained at 8 or 4 bits; this is {name} at {record.bits} bits")
    if method.trains_base and precision == "float32" != record.precision:
        raise UserError(f"{name} was kept in {record.precision}: in float32 it would be the same numbers")
    # A run in bfloat16 has no float32 to be exported in: that needs its base in float32.
    held = record.precision if precision == record.precision else "float32"
    options = replace(folder.options, methods=[name], precision=held)
    folder = RunFolder(folder.path, options, folder.recipe)
    job = prepare_run(folder)
    job = job.of(_entry(job, name))
    mergeability = job.mergeability[name]
    if isinstance(mergeability, NotMergeable):
        raise UserError(f"{name} can't become a plain checkpoint: {mergeability.reason}")
    require_same_data(data_of(job), folder.read_results().data, folder.path)
    saved = open_saved(job, method, folder.trial(name, record.seed), mergeability, base=base)
    # Its answers are made anew: those of the run may be on the other base.
    some = [example for example, _ in job.first_pairs(PROOF_PROMPTS)]
    sampling = Sampling(max_new_tokens=job.recipe.max_new_tokens)
    answers = f"{name}: answers"
    predictions = [] if record.head else predict(job.head.language_model(saved.model), {"": some}, sampling, answers)
    same = precision == record.precision and BASES.get(saved.base or "", "") in (record.export.base or "")
    scored = "of what is shipped" if same else f"of the run's own checkpoint, in {record.precision}, on its base"
    exported, _ = merge(
        job, method, record.seed, to, saved, some, predictions, record.metrics, choosing=record.choosing,
        precision=PRECISIONS[precision], scored=scored,
    )  # fmt: skip
    return exported


def require_new_folder(to: Path) -> None:
    """See that an export can be written to a folder.

    Raises:
        UserError: it exists, or its parent can't be written to.
    """
    if to.exists():
        raise UserError(f"{to} exists: choose another folder")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with files.temporary_folder(to.parent, to.name):
            pass
    except OSError as error:
        raise UserError(f"can't write to {to.parent}: {error.strerror}") from error


def _entry(job: Job, name: str) -> TunedEntry:
    return next(entry for entry in job.tuned if entry.name == name)


def finished_record(folder: RunFolder, name: str, seed: int | None) -> RunRecord:
    """The record of a method that was carried to its end."""
    records = folder.read_results().runs
    if name not in {record.method for record in records}:
        raise unknown("method of this run", name, {record.method for record in records})
    seed = folder.options.seed if seed is None else seed
    record = next((r for r in records if (r.method, r.seed) == (name, seed)), None)
    if record is None:
        raise UserError(f"{name} was not run with seed {seed}")
    if not record.done:
        raise UserError(f"{name} failed: {record.error}")
    return record
