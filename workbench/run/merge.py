"""A merged checkpoint of what was trained, proven equal to it."""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.data import Example
from workbench.data.labels import Labels
from workbench.data.render import Rendered, Renderer
from workbench.evaluation import Prediction, predict
from workbench.export import (
    Expected,
    FreshProcess,
    Interface,
    Proof,
    Source,
    interface_of,
    low_rank_updates,
    proof_sequences,
    sequence_logits,
    sequence_states,
    write_proven,
)
from workbench.generation.engine import LocalModel, generation_config
from workbench.generation.sampling import Sampling
from workbench.methods import Method, NotMergeable
from workbench.models import head_of, last_states, load_model, plain_model, read_by_head, without_adapter
from workbench.models.checkpoint import read_config
from workbench.results import ExportRecord, Score
from workbench.run.cards import BASES, card, prompt_note, threshold_note
from workbench.run.prepare import Job
from workbench.run.resources import versions
from workbench.run.saved import SavedModel, load_base
from workbench.run.speed import answering_seconds
from workbench.sources import base_sha256, public_name

# Held-out prompts on which an export must give the same text.
PROOF_PROMPTS = 100


def merge(
    job: Job,
    method: Method,
    seed: int,
    folder: Path,
    saved: SavedModel,
    examples: Sequence[Example],
    predictions: Sequence[Prediction],
    scores: Mapping[str, Score],
    process: FreshProcess | None = None,
    *,
    choosing: Mapping[str, Mapping[str, Any]],
    precision: torch.dtype = torch.float32,
    scored: str = "of what is shipped",
) -> tuple[ExportRecord, Renderer]:
    """Make a merged checkpoint of what can become one, and prove it.

    Args:
        folder: where it goes, whole or not at all.
        saved: of a method that merges; its model is changed by it.
        examples, predictions: that were evaluated; it is proven on the first of them.
        process: one that is open already.
        choosing: task -> how likelihoods become probabilities, of which the card says what a user needs.
        precision: of the saved weights.
        scored: what `scores` are of, for the card.

    Returns:
        The record, and how examples are rendered for the merged checkpoint.
    """
    assert not isinstance(method.merge, NotMergeable)
    base = _base_note(job, saved)
    notes = {**({"Base of the merge": base} if base else {}), **threshold_note(choosing), "Scores": scored}
    examples, predictions = _proven(job.renderer, examples, predictions)
    expected = _expected(job, method, saved, examples, predictions)
    generation = generation_config(job.renderer, saved.model.generation_config) if job.head.labels is None else None
    most = job.recipe.max_new_tokens
    slow = None if method.trains_base else answering_seconds(job.head, saved.model, examples, most)
    merged: Any
    merged, tokenizer = method.merge(saved.model, job.renderer.tokenizer)
    if tokenizer is not job.renderer.tokenizer:
        expected = replace(expected, new_entries=_new_entries(tokenizer, job.renderer.tokenizer))
        notes["Prompt"] = prompt_note(len(expected.new_entries))
    if generation is not None:
        generation.suppress_tokens = list(expected.new_entries) or None
    renderer = job.renderer.with_tokenizer(tokenizer)
    fast = answering_seconds(replace(job.head, renderer=renderer), merged, examples, most) if slow else None
    held_out = [renderer.render(example) for example in examples]
    with nullcontext(process) if process is not None else FreshProcess() as reader:
        proof = write_proven(
            _rounded(merged, precision), tokenizer, generation, folder, held_out, expected,
            card(job, method, seed, scores, merged=True, notes=notes), reader, job.recipe.max_new_tokens,
            precision, provenance(job, method, seed),
        )  # fmt: skip
    record = _record(proof, saved, base)
    return replace(record, speed=slow / fast if slow and fast and record.merged else None), renderer


def _rounded(model: Any, precision: torch.dtype) -> Any:
    """A model with its weights in a precision; what it only computes with stays as it is."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(precision)
    return model


def _base_config(job: Job, model: Any) -> Any:
    """The configuration that an export's is held against: of a whole checkpoint that was trained, that of its base."""
    config = read_config(job.checkpoint.path)
    return config if type(config) is type(model.config) and job.head.labels is None else copy.deepcopy(model.config)


def _new_entries(tokenizer: Any, before: Any) -> list[int]:
    """Ids that only the first of two tokenizers has."""
    return sorted(set(tokenizer.get_vocab().values()) - set(before.get_vocab().values()))


def provenance(job: Job, method: Method, seed: int) -> dict[str, Any]:
    """From what a checkpoint is made."""
    return {
        "recipe": job.recipe.name,
        "method": job.name_of(method),
        "seed": seed,
        "trained_bits": job.precision(method).trained_bits,
        "base": {"name": public_name(job.recipe.checkpoint), "sha256": base_sha256(job.checkpoint.path)},
        "data": dict(job.data.fingerprints),
        "made_with": versions(),
    }


def _proven(
    renderer: Renderer, examples: Sequence[Example], predictions: Sequence[Prediction]
) -> tuple[list[Example], list[Prediction]]:
    """The first that are the same tokens for whoever tokenizes their text.

    What a text spells of control tokens is plain text here, and a control token elsewhere.

    Args:
        predictions: of the examples, in their order; of a head of classes there may be none.
    """
    same = [place for place, example in enumerate(examples) if not renderer.control.spelled(example.prompt)]
    chosen = (same or list(range(len(examples))))[:PROOF_PROMPTS]
    return [examples[place] for place in chosen], [predictions[place] for place in chosen if place < len(predictions)]


def _base_note(job: Job, saved: SavedModel) -> str | None:
    """Of an adapter that was trained on a base of fewer bits: into what it was merged."""
    if job.bits == 32 or saved.base is None:
        return None
    return f"trained on the base at {job.bits} bits, merged into {BASES[saved.base]} in {job.shipped_in}"


def _record(proof: Proof, saved: SavedModel, base: str | None) -> ExportRecord:
    measured = {name: value for name, value in asdict(proof).items() if name not in ("holds", "reason")}
    losses = dict(saved.losses) if len(saved.losses) > 1 else None
    return ExportRecord(merged=proof.holds, reason=proof.reason, **measured, base=base, validation_loss_by_base=losses)


def _expected(
    job: Job,
    method: Method,
    saved: SavedModel,
    examples: Sequence[Example],
    predictions: Sequence[Prediction],
) -> Expected:
    """What the trained model and the base give for held-out examples."""
    model: Any = saved.model
    rendered = [job.renderer.render(example) for example in examples]
    config = _base_config(job, plain_model(model))
    interface = partial(interface_of, copy.deepcopy(job.renderer), examples, config)
    source = None
    if saved.base is not None and method.trains and not method.trains_base:
        source = Source(base=partial(load_base, job, saved.base), updates=low_rank_updates(model))
    if job.head.labels is not None:
        of_classes = _expected_classes(job, method, model, job.head.labels, rendered, interface)
        return replace(of_classes, source=source)
    sequences = proof_sequences(rendered)
    logits = sequence_logits(model, sequences)
    if method.trains_base:
        base_logits = partial(_base_logits, job, sequences)
    else:
        with model.disable_adapter():
            base_logits = partial(list, sequence_logits(model, sequences))
    if any(prediction.choices for prediction in predictions):  # which choice is likeliest is no greedy text
        sampling = Sampling(max_new_tokens=job.recipe.max_new_tokens)
        predictions = predict(LocalModel(model, job.renderer), {"": examples}, sampling, f"{method.name}: texts")
    return Expected(
        logits=logits,
        base_logits=base_logits,
        texts=[prediction.prediction for prediction in predictions],
        interface=interface,
        states=sequence_states(model, sequences[0]),
        source=source,
    )


def _base_logits(job: Job, sequences: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    return sequence_logits(load_model(job.checkpoint.path, job.shipped_bits), sequences)


@torch.inference_mode()
def _expected_classes(
    job: Job,
    method: Method,
    model: nn.Module,
    labels: Labels,
    rendered: Sequence[Rendered],
    interface: Callable[[], Interface],
) -> Expected:
    """The same of a model with a head of classes; the base is the checkpoint under the trained head.

    Under a head of its own it would be told from anything, and a head that has learned hides an adapter that hasn't.
    """
    sequences = [torch.tensor([ids]) for ids in proof_sequences(rendered, classes=True)]
    device = next(model.parameters()).device

    def states(of: nn.Module) -> list[torch.Tensor]:
        return [last_states(of, ids.to(device), torch.ones_like(ids, device=device)).cpu() for ids in sequences]

    head = copy.deepcopy(head_of(model)).cpu()
    logits = [read_by_head(head, state) for state in states(model)]

    def base_logits() -> list[torch.Tensor]:
        before = nn.Module.to(job.head.load(job.checkpoint.path, job.shipped_bits), device)
        return [read_by_head(head, state) for state in states(before)]

    if not method.trains_base:
        with without_adapter(model) as base:
            before = [read_by_head(head, state) for state in states(base)]
        base_logits = partial(list, before)
    return Expected(
        logits=logits,
        base_logits=base_logits,
        texts=[labels.names[int(one.argmax())] for one in logits],
        interface=interface,
        classes=True,
    )
