"""What stands in the table beside the methods: baselines, and rankers on top of a method."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from workbench import files
from workbench.data import Example
from workbench.data.render import Rendered
from workbench.errors import MethodError
from workbench.evaluation import Prediction, read_predictions, score_all, write_predictions
from workbench.evaluation.baselines import Baseline
from workbench.evaluation.reranker import fit_ranker
from workbench.evaluation.reranker import ranked as put_together
from workbench.run.prepare import Job
from workbench.run.resources import Memory, peak_memory
from workbench.run.trial import VALIDATION_FILE, signatures

RANKER = "ranker-"
RANKER_FILE = "ranker.json"


def carry_baseline(job: Job, name: str, function: Baseline, seed: int, folder: Path) -> dict[str, Any]:
    """Fit a baseline to every task with choices, into `folder`, and return its record for `results.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = dict.fromkeys(e.task for pairs in job.evaluated.values() for e, _ in pairs if e.choices)
    answers: list[Prediction] = []
    parameters = 0
    began = time.perf_counter()
    with peak_memory() as memory:
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
            guesses = function(train, validation, [example for _, (example, _) in asked])
            parameters += guesses.parameters
            answers += _answers(asked, guesses.log_probabilities)
    return _record(
        job,
        name,
        seed,
        folder,
        answers,
        f"{name} is a baseline and no language model",
        parameters,
        began,
        memory,
    )


def carry_ranker(job: Job, name: str, seed: int, ranked: Path, folder: Path) -> dict[str, Any]:
    """Fit a ranker to what the method in the folder `ranked` made of the validation split; record it in `folder`.

    Raises:
        MethodError: that method failed, or chose nothing.
    """
    if not (ranked / VALIDATION_FILE).is_file():
        raise MethodError(f"{ranked.name} has no answers by choosing: there is nothing to put together")
    folder.mkdir(parents=True, exist_ok=True)
    assert job.recipe.features is not None
    answers: list[Prediction] = []
    weights = {}
    began = time.perf_counter()
    given = {(answer.split, answer.id): answer for answer in read_predictions(ranked)}
    given |= {("validation", answer.id): answer for answer in read_predictions(ranked, VALIDATION_FILE)}

    def of_task(task: str, split: str) -> tuple[list[Example], list[Prediction]]:
        examples = [e for e, _ in job.pairs[split] if e.choices and e.task == task]
        return examples, [given[split, example.id] for example in examples]

    with peak_memory() as memory:
        for task in dict.fromkeys(e.task for e, _ in job.pairs["validation"] if e.choices):
            ranker = fit_ranker(*of_task(task, "validation"), job.recipe.features)
            weights[task] = asdict(ranker)
            for split in job.evaluated:
                answers += put_together(ranker, *of_task(task, split), job.recipe.features)
    files.write_json(folder / RANKER_FILE, weights)
    count = sum(len(values["weights"]) for values in weights.values())
    return _record(
        job,
        name,
        seed,
        folder,
        answers,
        f"a ranker of {count} numbers in {RANKER_FILE}, on top of {ranked.name}",
        count,
        began,
        memory,
    )


def _record(
    job: Job,
    name: str,
    seed: int,
    folder: Path,
    answers: Sequence[Prediction],
    reason: str,
    parameters: int,
    began: float,
    memory: Memory,
) -> dict[str, Any]:
    """Score and write `answers`, and return the record of what is no method.

    Args:
        reason: why there is no plain checkpoint.
        parameters: numbers that were fitted.
        began: when, by `time.perf_counter`.
    """
    seconds = time.perf_counter() - began
    places = [(split, example.id) for split, pairs in job.evaluated.items() for example, _ in pairs]
    order = {key: place for place, key in enumerate(places)}
    answers = sorted(answers, key=lambda answer: order[answer.split, answer.id])  # as every method has them
    scores = score_all(job.metrics, answers)
    write_predictions(folder, answers)
    return {
        "method": name,
        "seed": seed,
        "bits": job.bits,
        "status": "done",
        "error": None,
        "baseline": True,
        "metrics": {label: asdict(score) for label, score in scores.items()},
        "signatures": signatures(job.metrics, answers),
        "evaluation_seconds": 0.0,
        "train_tokens_per_second": None,
        "adapter_bytes": 0,
        "learning_rate": None,
        "export": {"merged": False, "reason": reason, "max_abs_logit_difference": None, "greedy_agreement": None},
        "trainable_parameters": parameters,
        "total_parameters": parameters,
        "train_seconds": seconds,
        "peak_memory_bytes": memory.peak_bytes,
    }


def _answers(
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
