"""The whole run: methods one after another, the results after each, the report at the end."""

import errno
import json
import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from workbench import files
from workbench.compare import compare_methods, write_report
from workbench.errors import MethodError, UserError
from workbench.evaluation import Metric, Prediction, find_metric, read_predictions
from workbench.recipe import load_recipe
from workbench.run.entries import RANKER, carry_baseline, carry_ranker
from workbench.run.prepare import Job, prepare
from workbench.run.resources import environment
from workbench.run.trial import carry_method, clean_up

logger = logging.getLogger(__name__)

OPTIONS_FILE = "options.json"
RESULTS_FILE = "results.json"
# With less than this left, a disk is full.
FULL_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class Options:
    """What was asked for on the command line; kept in the output folder, so that a run can be resumed."""

    recipe: str
    recipe_sha256: str
    methods: list[str] | None
    model: str | None
    bits: int
    seed: int
    seeds: int
    limit: int | None


def open_folder(out: Path, options: Options) -> None:
    """Make the output folder and leave `options` in it.

    Raises:
        UserError: it holds something already, or can't be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise UserError(f"{out} is not empty: go on with --resume {out}, or choose another --out")
        keep_options(out, options)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise UserError(f"can't write to {out}: {error.strerror}") from error


def read_options(out: Path) -> Options:
    """The options of an earlier run in `out`.

    Raises:
        UserError: there is none, or its recipe has changed since.
    """
    file = out / OPTIONS_FILE
    if not file.is_file():
        raise UserError(f"{out} is no run: it holds no {OPTIONS_FILE}")
    options = Options(**json.loads(file.read_text(encoding="utf-8")))
    load_recipe(Path(options.recipe))
    if files.sha256_of(Path(options.recipe)) != options.recipe_sha256:
        raise UserError(f"{options.recipe} has changed since {out} was begun: start a new run")
    return options


def read_results(out: Path) -> dict[str, Any]:
    """The results of the run in `out`.

    Raises:
        UserError: there are none yet.
    """
    file = out / RESULTS_FILE
    if not file.is_file():
        raise UserError(f"{out} holds no {RESULTS_FILE}: the run has not finished a method yet")
    results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return results


def keep_options(out: Path, options: Options) -> None:
    """Leave `options` in the output folder of their run."""
    files.write_json(out / OPTIONS_FILE, asdict(options))


def with_methods(options: Options, methods: Sequence[str]) -> Options:
    """The same run with more methods, behind those that it has."""
    if not methods:
        return options
    before = options.methods or list(load_recipe(Path(options.recipe)).methods)
    return replace(options, methods=list(dict.fromkeys([*before, *methods])))


def prepare_options(options: Options) -> Job:
    """Prepare what `options` ask for.

    Raises:
        UserError: anything the user has to mend.
    """
    return prepare(
        Path(options.recipe),
        methods=options.methods,
        model=options.model,
        bits=options.bits,
        limit=options.limit,
    )


def carry_out(job: Job, options: Options, out: Path, began: float) -> dict[str, Any]:
    """Carry out a job into the folder `out`, going on where an earlier run was interrupted.

    Args:
        began: when the command did, by `time.perf_counter`.

    Returns:
        The content of `results.json`, which is written anew after every method.

    Raises:
        OSError: the disk is full, or the like.
    """
    seeds = range(options.seed, options.seed + options.seeds)
    results = _header(job)
    earlier = _finished(out, results["data"])
    began -= _seconds_before(out)
    answers: dict[tuple[str, int], list[Prediction]] = {}
    for seed in seeds:
        for name in _names(job):
            folder = folder_of(out, options, name, seed)
            record = earlier.pop((name, seed), None)
            if record is not None:
                logger.info("%s, seed %d: done before", name, seed)
            else:
                record = _attempt(job, name, seed, folder)
            if record["status"] == "done":
                answers[name, seed] = read_predictions(folder)
            results["runs"].append(record)
            results["seconds"] = _seconds(results["runs"], time.perf_counter() - began)
            # What was done before and is yet to come again in this list must survive another interruption.
            files.write_json(out / RESULTS_FILE, {**results, "runs": [*results["runs"], *earlier.values()]})
            if record["status"] == "done":
                clean_up(folder, keep_weights=not record["export"]["merged"])
    results["comparisons"] = _comparisons(job, answers)
    results["seconds"] = _seconds(results["runs"], time.perf_counter() - began)
    files.write_json(out / RESULTS_FILE, results)
    write_report(
        out,
        results,
        {method: given for (method, seed), given in answers.items() if seed == options.seed},
        description_of(job),
    )
    return results


def _seconds_before(out: Path) -> float:
    """What earlier parts of the run in `out` took, up to the last method that was carried to its end."""
    file = out / RESULTS_FILE
    if not file.is_file():
        return 0.0
    return float(json.loads(file.read_text(encoding="utf-8")).get("seconds", {}).get("total", 0.0))


def _seconds(runs: Sequence[Mapping[str, Any]], total: float) -> dict[str, float]:
    """Where the time of a run went."""
    parts = {
        "training": sum(run["train_seconds"] for run in runs),
        "evaluation": sum(run["evaluation_seconds"] for run in runs),
        "export": sum(run.get("export_seconds", 0.0) for run in runs),
    }
    total = max(total, sum(parts.values()))  # a training that was finished before an interruption has its time yet
    return {"total": total, **parts, "other": total - sum(parts.values())}


def folder_of(out: Path, options: Options, method: str, seed: int) -> Path:
    """Where a method with a seed has its files."""
    return out / (method if options.seeds == 1 else f"{method}-seed{seed}")


def description_of(job: Job) -> str:
    """The first sentence of the recipe's docstring."""
    import ast

    text = ast.get_docstring(ast.parse(job.path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split())


def _names(job: Job) -> list[str]:
    """Everything that is carried out with a seed, in the order of the table."""
    names = list(job.recipe.baselines)
    for method in job.methods:
        names.append(method.name)
        if job.recipe.features:
            names.append(f"{RANKER}{method.name}")
    return names


def _attempt(job: Job, name: str, seed: int, folder: Path) -> dict[str, Any]:
    """The record of a method, failed or done."""
    try:
        if name in job.recipe.baselines:
            logger.info("%s: a baseline", name)
            return carry_baseline(job, name, job.recipe.baselines[name], seed, folder)
        if name.startswith(RANKER):
            logger.info("%s: its likelihoods together with what else is known of the choices", name)
            ranked = folder.with_name(folder.name.removeprefix(RANKER))
            return carry_ranker(job, name, seed, ranked, folder)
        method = next(method for method in job.methods if method.name == name)
        logger.info("%s, seed %d: %s", name, seed, method.summary)
        return carry_method(job, method, seed, folder)
    except MethodError as error:
        reason = str(error)
    except UserError as error:
        reason = str(error)
    except Exception as error:  # the traceback goes to the log, the other methods go on
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise
        # Safetensors says so in words; PyTorch's writer only that it failed.
        if "No space left on device" in str(error) or shutil.disk_usage(folder).free < FULL_BYTES:
            raise OSError(errno.ENOSPC, "No space left on device", str(folder)) from error
        logger.exception("%s failed", name)
        reason = f"{type(error).__name__}: {error}"
    logger.error("%s, seed %d: %s", name, seed, reason)
    return {
        "method": name,
        "seed": seed,
        "bits": job.bits,
        "status": "failed",
        "error": reason,
        "metrics": {},
        "trainable_parameters": 0,
        "total_parameters": 0,
        "train_seconds": 0.0,
        "evaluation_seconds": 0.0,
        "train_tokens_per_second": None,
        "peak_memory_bytes": psutil.Process().memory_info().rss,
        "adapter_bytes": 0,
        "learning_rate": None,
        "export": {
            "merged": False,
            "reason": f"the method failed: {reason}",
            "max_abs_logit_difference": None,
            "greedy_agreement": None,
        },
    }


def require_same_data(now: Mapping[str, Any], before: Mapping[str, Any], out: Path) -> None:
    """Compare the `data` of two results.

    Raises:
        UserError: they differ, so that what was done in `out` can't be gone on with.
    """
    changed = [split for split, entry in now["splits"].items() if entry != before["splits"].get(split)]
    if changed:
        raise UserError(f"the data of {', '.join(changed)} have changed since {out} was begun: start a new run")


def _finished(out: Path, data: Mapping[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    """Records of an earlier part of this run.

    Raises:
        UserError: the data have changed since, so that methods could not be compared.
    """
    if not (out / RESULTS_FILE).is_file():
        return {}
    before = read_results(out)
    require_same_data(data, before["data"], out)
    return {(run["method"], run["seed"]): run for run in before["runs"] if run["status"] == "done"}


def data_of(job: Job) -> dict[str, Any]:
    """The `data` of a job's results."""
    return {
        "splits": {
            split: {
                "examples": len(pairs),
                "tokens": int(pairs.lengths.sum()),
                "trained_tokens": int(pairs.completion_lengths.sum()),
                "too_long": list(job.too_long[split]),
                "sha256": job.sources[split],
            }
            for split, pairs in job.pairs.items()
        },
        "repeated": job.repeated,
        "leaked": job.leaked,
    }


def _header(job: Job) -> dict[str, Any]:
    return {
        "recipe": job.path.stem,
        "recipe_sha256": job.sha256,
        "checkpoint": {
            "name": job.checkpoint.name,
            "licence": job.checkpoint.licence,
            "sha256": job.checkpoint.sha256,
        },
        "headline": job.recipe.primary_metric,
        "evaluated_splits": list(job.recipe.evaluated_splits),
        "metrics": {metric.name: _describe(metric) for metric in job.metrics},
        "environment": environment(),
        "data": data_of(job),
        "runs": [],
        "comparisons": [],
    }


def _describe(metric: Metric) -> dict[str, Any]:
    def finite(bound: float) -> float | None:
        return bound if math.isfinite(bound) else None  # JSON knows no infinity

    return {
        "title": metric.title,
        "summary": metric.summary,
        "higher_is_better": metric.higher_is_better,
        "worst": finite(metric.worst),
        "best": finite(metric.best),
        "chance": metric.chance,
    }


def _comparisons(job: Job, answers: Mapping[tuple[str, int], list[Prediction]]) -> list[dict[str, Any]]:
    """Compare the methods that were carried through with the same seeds."""
    seeds: dict[str, list[int]] = {}
    for method, seed in answers:
        seeds.setdefault(method, []).append(seed)
    most = max(seeds.values(), key=len, default=[])
    by_method = {m: [answers[m, seed] for seed in given] for m, given in seeds.items() if given == most}
    if len(by_method) < 2:
        return []
    primary_metric = find_metric(job.recipe.primary_metric, job.metrics)
    scored = {
        m: {a.split for given in seeds for a in given if primary_metric.applies(a)} for m, seeds in by_method.items()
    }
    splits = job.recipe.evaluated_splits
    split = next((split for split in splits if any(split in found for found in scored.values())), "")
    comparable = {m: seeds for m, seeds in by_method.items() if split in scored[m]}
    return compare_methods(primary_metric, split, comparable) if len(comparable) > 1 else []
