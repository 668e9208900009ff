"""A method of a finished run in another format, held against what was trained by the software that will run it."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from workbench import files
from workbench.compare import compare_methods
from workbench.data import Example
from workbench.errors import UserError, unknown, without_places
from workbench.evaluation import Metric, Prediction, find_metric, predict, read_predictions, score_all
from workbench.export import interface_of, sequence_logits
from workbench.export.card import model_card
from workbench.export.formats import Format, Sources, find_format
from workbench.export.formats.model import RuntimeModel
from workbench.export.formats.verdict import POSITIONS, Trained, Verdict, read_back, scored
from workbench.export.verify import MANIFEST_FILE, checksums_of
from workbench.generation.sampling import Sampling
from workbench.models import load_model, load_tokenizer, release_memory
from workbench.models.checkpoint import read_config
from workbench.results import Results, RunRecord
from workbench.run.export import finished_record, require_new_folder
from workbench.run.folder import RunFolder, TrialFolder
from workbench.run.manifest import require_unchanged
from workbench.run.prepare import Job
from workbench.run.run import data_of, prepare_run, require_same_data
from workbench.run.scoring import read_calibrations

# Sequences whose next tokens are compared, and prompts whose answers are.
SEQUENCES, PROMPTS = 16, 100


def export_format(
    folder: RunFolder,
    name: str,
    to: Path,
    kind: str,
    *,
    quantization: str | None = None,
    seed: int | None = None,
    accept_loss: bool = False,
) -> Verdict:
    """Write the merged checkpoint of a method in another format, read it back by what runs it, and score that file.

    Args:
        to: folder where it goes; must not exist.
        kind: name of the format.
        quantization: how its weights are held; None takes the format's usual.
        seed: of a run with several; None takes the first.
        accept_loss: a file that scores significantly less than what was trained is written nevertheless.

    Returns:
        How it compares. If it doesn't hold, there is nothing at `to`.

    Raises:
        UserError: no such method, format or quantization, no merged checkpoint, one that was changed since, `to`
            exists, or what writes or runs the format is not installed.
    """
    chosen = find_format(kind)
    quantization = quantization or chosen.quantizations[0]
    if quantization not in chosen.quantizations:
        raise unknown(f"quantization of {kind}", quantization, chosen.quantizations)
    require_new_folder(to)
    with folder.locked(reading=True):
        record = finished_record(folder, name, seed)
        trial = folder.trial(name, record.seed)
        require_unchanged(trial, record)
        if not record.export.merged:
            raise UserError(f"{name} has no merged checkpoint to write as {kind}: {record.export.reason}")
        if record.head:
            raise UserError(f"format {kind} holds no head of classes: take --format hf")
        results = folder.read_results()
        job = prepare_run(RunFolder(folder.path, replace(folder.options, methods=[name]), folder.recipe))
        job = job.of(next(entry for entry in job.tuned if entry.name == name))
        require_same_data(data_of(job), results.data, folder.path)
        return _write(job, results, record, trial, to, chosen, quantization, accept_loss)


def _write(
    job: Job,
    results: Results,
    record: RunRecord,
    trial: TrialFolder,
    to: Path,
    chosen: Format,
    quantization: str,
    accept_loss: bool,
) -> Verdict:
    """Write, read back, score; leave the folder if all of it holds."""
    try:
        with files.whole_folder(to) as aside:
            sources = Sources(
                merged=trial.merged,
                base=job.checkpoint.path,
                adapter=trial.adapter if trial.adapter.is_dir() else None,
                name=f"{job.recipe.name} by {record.method}",
                end_of_turn=job.renderer.end_of_turn,
            )
            _answered(job, results, trial)  # before anything is written
            chosen.write(sources, aside, quantization)
            trained = _trained(job, trial)
            longest = max(len(ids) for ids in (*trained.prompts, *trained.prefixes, *_asked(job, results)))
            with chosen.open(sources, aside, longest + job.recipe.max_new_tokens) as runtime:
                verdict = read_back(runtime, trained, quantization in chosen.rounded)
                if verdict.holds:
                    vocabulary = read_config(trial.merged).vocab_size
                    renderer = job.renderer.with_tokenizer(load_tokenizer(trial.merged))
                    model = RuntimeModel(runtime, renderer, vocabulary)
                    try:
                        verdict = _scored(job, results, trial, model, verdict, accept_loss)
                    except RuntimeError as error:
                        reason = f"its runtime could not answer what was asked: {without_places(str(error))}"
                        verdict = replace(verdict, holds=False, reason=reason)
            if not verdict.holds:
                raise _RefusedError(verdict)
            _describe(job, record, trial, aside, to.name, chosen, quantization, verdict)
    except _RefusedError as error:
        return error.verdict
    return verdict


class _RefusedError(Exception):
    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


def _trained(job: Job, trial: TrialFolder) -> Trained:
    """What the merged checkpoint, proven to be what was trained, gives for held-out examples, and the base."""
    tokenizer = load_tokenizer(trial.merged)
    renderer = job.renderer.with_tokenizer(tokenizer)
    examples = [example for example, _ in job.first_pairs(PROMPTS)]
    plain = [e for e in examples if not renderer.control.spelled(e.prompt)] or examples
    rendered = [renderer.render(example) for example in plain]
    before = [job.renderer.render(example) for example in plain[:SEQUENCES]]
    known = int(read_config(job.checkpoint.path).get_text_config().vocab_size)
    model: Any = load_model(trial.merged, 32)
    config = model.config
    logs = _logs(model, [r.prompt_ids + r.completion_ids for r in rendered[:SEQUENCES]], known)
    del model  # there may be no memory for two
    release_memory()
    model = load_model(job.checkpoint.path, 32)
    base_logs = _logs(model, [r.prompt_ids + r.completion_ids for r in before], known)
    new = sorted(set(tokenizer.get_vocab().values()) - set(job.renderer.tokenizer.get_vocab().values()))
    answers = {answer.id: answer for answer in read_predictions(trial.path)}
    written = [
        (answers[e.id].prediction, r.prompt_ids)
        for e, r in zip(plain, rendered, strict=True)
        if e.id in answers and not answers[e.id].choices
    ]
    prefixes = [ids[: len(ids) - left] for ids in ([*r.prompt_ids, *r.completion_ids] for r in rendered[:SEQUENCES])
                for left in reversed(range(_positions(ids)))]  # fmt: skip
    interface = partial(interface_of, job.renderer, plain, config)
    del model
    release_memory()
    return Trained(
        prefixes=prefixes, logs=logs, base_logs=base_logs,
        texts=[text for text, _ in written], prompts=[ids for _, ids in written],
        interface=interface, new_entries=new, max_new_tokens=job.recipe.max_new_tokens,
    )  # fmt: skip


def _positions(ids: Sequence[int]) -> int:
    return min(POSITIONS, len(ids))


def _logs(model: Any, sequences: Sequence[Sequence[int]], known: int) -> torch.Tensor:
    """Log-probabilities behind the last tokens of each sequence, of the entries that the base has."""
    logits = sequence_logits(model, sequences)
    parts = [
        one[-_positions(ids) :, :known].float().log_softmax(dim=1) for one, ids in zip(logits, sequences, strict=True)
    ]
    return torch.cat(parts)


def _asked(job: Job, results: Results) -> list[list[int]]:
    """Token ids of all prompts that a file is scored on."""
    return [rendered.prompt_ids for _, rendered in job.evaluated[results.compared_split]]


def _answered(job: Job, results: Results, trial: TrialFolder) -> tuple[Metric, list[Prediction]]:
    """The headline metric, and the run's own answers that it is taken of.

    Raises:
        UserError: it hangs on likelihoods of references, which no runtime tells.
    """
    metric = find_metric(results.headline, job.recipe.metrics)
    answers = [one for one in read_predictions(trial.path) if one.split == results.compared_split]
    found = [one for one in answers if metric.applies(one)]
    if not any(metric.applies(replace(one, nll=math.nan, tokens=0)) for one in found):
        raise UserError(
            f"the recipe's primary metric, {results.headline}, hangs on how likely references are, which other "
            "runtimes don't tell: choose another primary_metric, or take --format hf"
        )
    return metric, found


def _scored(
    job: Job, results: Results, trial: TrialFolder, model: RuntimeModel, verdict: Verdict, accept_loss: bool
) -> Verdict:
    """A verdict with the headline score of the file beside that of the run, on the same examples."""
    (metric, before), split = _answered(job, results, trial), results.compared_split
    asked = {one.id for one in before}
    examples: list[Example] = [example for example, _ in job.evaluated[split] if example.id in asked]
    sampling = Sampling(max_new_tokens=job.recipe.max_new_tokens)
    calibrations = read_calibrations(trial)
    after = predict(model, {split: examples}, sampling, f"{split}", calibrations)
    (comparison,) = compare_methods(metric, split, {"run": [_in_order(before, after)], "file": [after]})
    found = scored(verdict, comparison, metric.higher_is_better, accept_loss)
    label = f"{metric.name}[{split}]"
    return replace(
        found,
        score=score_all([metric], after, ())[label],
        adapter_score=score_all([metric], before, ())[label],
    )


def _in_order(answers: Sequence[Prediction], like: Sequence[Prediction]) -> list[Prediction]:
    known = {answer.id: answer for answer in answers}
    return [known[one.id] for one in like]


def _describe(
    job: Job,
    record: RunRecord,
    trial: TrialFolder,
    folder: Path,
    name: str,
    chosen: Format,
    quantization: str,
    verdict: Verdict,
) -> None:
    """The README of a file, and its manifest: from what it was made, how it was proven, and checksums."""
    source = json.loads((trial.merged / MANIFEST_FILE).read_text(encoding="utf-8"))
    assert verdict.score is not None
    assert verdict.comparison is not None
    one, two = verdict.score, verdict.comparison
    readers = {package: version(package) for package in chosen.packages}
    card = model_card(
        title=f"{job.recipe.name} by {record.method}, {chosen.name} {quantization}",
        checkpoint=source["base"]["name"],
        licence=job.checkpoint.licence,
        method=record.method_name,
        summary=chosen.summary,
        recipe=job.recipe.name,
        seed=record.seed,
        bits=record.bits,
        examples=len(job.pairs["train"]),
        scores=[(f"{two.metric}[{two.split}], of this file", f"{one.value:.2f} ({one.low:.2f} to {one.high:.2f})")],
        loading=chosen.usage(name),
        language=chosen.language,
        library=chosen.name,
        notes={
            "Beside what was trained": f"{two.difference:+.2f} ({two.low:.2f} to {two.high:.2f}) on the same examples; "
            f"next tokens {verdict.divergence:.2g} nats away, the base {verdict.base_divergence:.2g}",
            "Read back by": ", ".join(f"{package} {number}" for package, number in readers.items()),
        },
    )
    files.write_text(folder / "README.md", card)
    checksums = checksums_of(folder)
    manifest = {
        **{key: value for key, value in source.items() if key not in ("proof", "files")},
        "format": chosen.name,
        "quantization": quantization,
        "read_back_by": readers,
        "merged": source["files"],
        "proof": asdict(verdict),
        "files": checksums,
    }
    files.write_json(folder / MANIFEST_FILE, manifest)
