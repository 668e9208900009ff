"""What is no language model but stands beside them: baselines, and rerankers on top of another entry."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from workbench import files
from workbench.data import Example
from workbench.data.render import Rendered
from workbench.errors import MethodError
from workbench.evaluation import Prediction, read_predictions, score_all, write_predictions
from workbench.evaluation.reranker import fit_reranker, reranked
from workbench.results import DONE, ExportRecord, RunRecord
from workbench.run.entries import BaselineEntry, RerankerEntry
from workbench.run.folder import TrialFolder
from workbench.run.prepare import Job
from workbench.run.resources import Watched, watched
from workbench.run.scoring import signatures


def run_baseline(job: Job, entry: BaselineEntry, seed: int, folder: TrialFolder) -> RunRecord:
    """Fit a baseline to every task with choices."""
    folder.path.mkdir(parents=True, exist_ok=True)
    tasks = dict.fromkeys(e.task for pairs in job.evaluated.values() for e, _ in pairs if e.choices)
    predictions: list[Prediction] = []
    parameters = 0
    began = time.perf_counter()
    with watched() as memory:
        for task in tasks:
            train, validation = (
                [e for e, _ in job.pairs[split] if e.choices and e.task == task] for split in ("train", "validation")
            )
            asked = [
                (split, pair)
                for split, pairs in job.evaluated.items()
                for pair in pairs
                if pair[0].choices and pair[0].task == task
            ]
            guesses = entry.function(train, validation, [example for _, (example, _) in asked])
            parameters += guesses.parameters
            predictions += _predictions(asked, guesses.log_probabilities)
    reason = f"{entry.name} is a baseline and no language model"
    record = _record(job, entry.name, seed, folder, predictions, reason, parameters, began, memory)
    return replace(record, seconds_per_1000_texts=1000 * record.train_seconds / max(1, len(predictions)))


def run_reranker(
    job: Job, entry: RerankerEntry, seed: int, folder: TrialFolder, reranked_folder: TrialFolder
) -> RunRecord:
    """Fit a reranker to what another entry made of the validation split.

    Args:
        reranked_folder: of that entry, with the same seed.

    Raises:
        MethodError: that entry failed, or chose nothing.
    """
    name = entry.reranked.name
    if not reranked_folder.validation.is_file():
        raise MethodError(f"{name} has no answers by choosing: there is nothing to put together")
    folder.path.mkdir(parents=True, exist_ok=True)
    features = job.recipe.features
    assert features is not None
    predictions: list[Prediction] = []
    weights = {}
    began = time.perf_counter()
    given = {(p.split, p.id): p for p in read_predictions(reranked_folder.path)}
    given |= {("validation", p.id): p for p in read_predictions(reranked_folder.path, folder.VALIDATION)}

    def of_task(task: str, split: str) -> tuple[list[Example], list[Prediction]]:
        examples = [e for e, _ in job.pairs[split] if e.choices and e.task == task]
        return examples, [given[split, example.id] for example in examples]

    with watched() as memory:
        for task in dict.fromkeys(e.task for e, _ in job.pairs["validation"] if e.choices):
            reranker = fit_reranker(*of_task(task, "validation"), features)
            weights[task] = asdict(reranker)
            for split in job.evaluated:
                predictions += reranked(reranker, *of_task(task, split), features)
    files.write_json(folder.reranker, weights)
    count = sum(len(values["weights"]) for values in weights.values())
    reason = f"a reranker of {count} numbers in {folder.reranker.name}, on top of {name}"
    return _record(
        job, entry.name, seed, folder, predictions, reason, count, began, memory, reranks=name, fixed=entry.fixed
    )


def _record(
    job: Job,
    name: str,
    seed: int,
    folder: TrialFolder,
    predictions: Sequence[Prediction],
    reason: str,
    parameters: int,
    began: float,
    memory: Watched,
    reranks: str | None = None,
    fixed: bool = True,
) -> RunRecord:
    """Score and write `predictions`, and return the record of what is no language model.

    Args:
        reason: why there is no merged checkpoint.
        parameters: numbers that were fitted.
        began: when, by `time.perf_counter`.
        reranks: name of the entry whose choices were ranked anew.
        fixed: no seed changes it.
    """
    seconds = time.perf_counter() - began
    keys = [(split, example.id) for split, pairs in job.evaluated.items() for example, _ in pairs]
    order = {key: number for number, key in enumerate(keys)}
    predictions = sorted(predictions, key=lambda p: order[p.split, p.id])  # as every method has them
    write_predictions(folder.path, predictions)
    return RunRecord(
        method=name,
        seed=seed,
        bits=job.bits,
        precision=job.shipped_in,
        status=DONE,
        baseline=True,
        reranks=reranks,
        fixed=fixed,
        metrics=score_all(job.metrics, predictions, job.recipe.report_groups),
        signatures=signatures(job.metrics, predictions),
        evaluation_seconds=0.0,
        adapter_bytes=0,
        export=ExportRecord(merged=False, reason=reason),
        trainable_parameters=parameters,
        total_parameters=parameters,
        train_seconds=seconds,
        peak_memory_bytes=memory.peak_bytes,
        training_usage=memory.usage,
    )


def _predictions(
    asked: Sequence[tuple[str, tuple[Example, Rendered]]], guesses: Sequence[Mapping[str, float]]
) -> list[Prediction]:
    return [
        Prediction(
            id=example.id,
            split=split,
            prompt=rendered.text,
            reference=example.completion,
            prediction=max(example.choices, key=logs.__getitem__),
            nll=-logs[example.completion],
            tokens=0,  # it reads no tokens
            groups=example.groups,
            source=example.source,
            choices={choice: logs[choice] for choice in example.choices},
        )
        for (split, (example, rendered)), logs in zip(asked, guesses, strict=True)
    ]
