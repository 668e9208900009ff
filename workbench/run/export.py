"""A plain checkpoint of a method of a finished run, later."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from workbench.errors import UserError, unknown
from workbench.evaluation import Score, answer_all
from workbench.methods import find_method
from workbench.run.job import Options, data_of, folder_of, prepare_options, read_results, require_same_data
from workbench.run.ship import BASES, PROOF_PROMPTS, first_pairs, open_shipped, ship


def export(
    run: Path,
    options: Options,
    name: str,
    folder: Path,
    *,
    seed: int | None = None,
    precision: str = "float32",
    base: str | None = None,
    accept_rounding: bool = False,
) -> dict[str, Any]:
    """Make a plain checkpoint of the method called `name` of the run in the folder `run`.

    Args:
        options: with which the run was made.
        folder: where it goes; must not exist.
        seed: of a run with several; None takes the first.
        precision: of the saved weights, "float32" or "bfloat16".
        accept_rounding: of bfloat16, hold single tokens to be the same and not whole texts.
        base: for a run at 8 or 4 bits, "original" or "dequantized" weights; None takes the better.

    Returns:
        As the `export` of a record in `results.json`. If `merged` is False, there is no `folder`.

    Raises:
        UserError: the run has no such method or seed, the method failed, it can't become a plain checkpoint, or
            `folder` exists.
    """
    if folder.exists():
        raise UserError(f"{folder} exists: choose another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent):
            pass
    except OSError as error:
        raise UserError(f"can't write to {folder.parent}: {error.strerror}") from error
    results = read_results(run)
    records = results["runs"]
    if name not in {record["method"] for record in records}:
        raise unknown("method of this run", name, {record["method"] for record in records})
    seed = options.seed if seed is None else seed
    record = next((r for r in records if (r["method"], r["seed"]) == (name, seed)), None)
    if record is None:
        raise UserError(f"{name} was not run with seed {seed}")
    if record["status"] != "done":
        raise UserError(f"{name} failed: {record['error']}")
    method = find_method(name)
    if method.plain is None:
        raise UserError(f"{name} can't become a plain checkpoint: {method.no_plain_checkpoint}")
    if base is not None and (record["bits"] >= 16 or method.trains_base):
        raise UserError(f"--base is for adapters trained at 8 or 4 bits; this is {name} at {record['bits']} bits")
    job = prepare_options(replace(options, methods=[name]))
    if reason := job.adapter_only.get(name):
        raise UserError(f"{name} can't become a plain checkpoint: {reason}")
    require_same_data(data_of(job), results["data"], run)
    done = folder_of(run, options, name, seed)
    if not any((done / kind).is_dir() for kind in ("adapter", "trained", "merged")):
        raise UserError(f"{done} holds neither adapter/ nor weights: there is nothing to export")
    shipped = open_shipped(job, method, done, plain=True, base=base)
    kind = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    # Its answers are made anew: those of the run may be on the other base.
    some = first_pairs(job, PROOF_PROMPTS)
    answers = answer_all(shipped.model, job.renderer, some, job.recipe.max_new_tokens, f"{name}: answers")
    scores = {metric: Score(**value) for metric, value in record["metrics"].items()}
    same = precision == "float32" and BASES.get(shipped.base or "", "") in record["export"].get("base", "")
    scored = "of what is shipped" if same else "of the run's own checkpoint, in float32 and on the base chosen there"
    exported, _ = ship(
        job, method, seed, folder, shipped, answers, scores,
        precision=kind, scored=scored, accept_rounding=accept_rounding,
    )  # fmt: skip
    return exported
