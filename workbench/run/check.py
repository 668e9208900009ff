"""`--check`: everything a person should look at before training, without training."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from workbench.console import bytes_text, count_text
from workbench.data import Example
from workbench.data.render import Rendered, Renderer
from workbench.errors import MethodError
from workbench.generation.decode import decode_batch
from workbench.generation.engine import LocalModel
from workbench.methods import Method, NotMergeable
from workbench.models import (
    attach,
    fast_evaluation,
    fast_training,
    has_linear_output,
    load_model,
    release_memory,
    size,
)
from workbench.run.folder import RunFolder
from workbench.run.found import data_text, deduplicated
from workbench.run.prepare import Job
from workbench.run.run import prepare_run
from workbench.training import find_objective, steps_in
from workbench.training.rows import lengths

EXAMPLES_SHOWN = 3
STEPS_TIMED = 3
ANSWERS_TIMED, TOKENS_TIMED, CHOICES_TIMED = 64, 4, 16
NO_TOKEN = -1  # at which no answer ends
TRAINED_OPEN, TRAINED_CLOSE = "⟦", "⟧"


def check(folder: RunFolder) -> str:
    """Describe splits, lengths, examples, sizes and the time and memory that a run would take.

    Raises:
        UserError: whatever would be an error in a run.
    """
    job = prepare_run(folder)
    parts = [
        f"# {job.recipe.name}: {job.checkpoint.name}, base held at {job.bits} bits",
        data_text(job),
        _splits(job),
        _lengths(job),
        _examples(job),
        _methods(job, folder.options.seeds),
    ]
    return "\n\n".join(parts)


def _splits(job: Job) -> str:
    lines = ["## Splits", f"{'':14}{'examples':>9}{'tokens':>9}{'trained':>9}{'too long':>9}"]
    for split, pairs in job.pairs.items():
        tokens, trained = int(pairs.lengths.sum()), int(pairs.completion_lengths.sum())
        lines.append(f"{split:14}{len(pairs):9}{tokens:9}{trained:9}{len(job.data.too_long[split]):9}")
    lines.append(
        f"left out of {deduplicated(job)}: {job.data.repeated} repeated, {job.data.leaked} whose question stands in "
        "another split"
    )
    return "\n".join(lines)


def _lengths(job: Job) -> str:
    found = np.concatenate([pairs.lengths for pairs in job.pairs.values()])
    quantiles = np.quantile(found, [0.0, 0.5, 0.9, 0.99, 1.0]).astype(int)
    names = ("shortest", "median", "90 %", "99 %", "longest")
    shown = ", ".join(f"{name} {value}" for name, value in zip(names, quantiles, strict=True))
    width = max(1, int(found.max()) // 8 + 1)
    counts = np.bincount(found // width, minlength=8)
    bars = [
        f"{index * width:5} to {(index + 1) * width - 1:5}  {'#' * int(50 * count / counts.max()):50} {int(count)}"
        for index, count in enumerate(counts)
    ]
    return "\n".join(
        ["## Lengths (tokens, prompt and completion)", f"{shown}; max_tokens {job.recipe.max_tokens}", *bars]
    )


def _examples(job: Job) -> str:
    rendered = job.pairs["train"].rendered
    chosen = [rendered[index] for index in sorted({0, len(rendered) // 2, len(rendered) - 1})][:EXAMPLES_SHOWN]
    shown = [f"--- {item.id}\n{marked(job.renderer, item)}" for item in chosen]
    legend = f"## Examples as the model sees them (trained tokens between {TRAINED_OPEN} and {TRAINED_CLOSE})"
    return "\n".join([legend, *shown])


def marked(renderer: Renderer, item: Rendered) -> str:
    """The text of an example with its trained tokens marked."""
    decode = renderer.tokenizer.decode
    return f"{decode(item.prompt_ids)}{TRAINED_OPEN}{decode(item.completion_ids)}{TRAINED_CLOSE}"


def _methods(job: Job, seeds: int) -> str:
    lines = ["## Methods", f"{'':10}{'trained':>9}{'of':>9}{'rate':>9}{'minutes':>9}{'memory':>10}  ships as"]
    total = 0.0
    for method in job.methods:
        try:
            precision = job.precision(method)
            model = _attached(job, method, precision.trained_bits, training=True)
        except MethodError as error:
            lines.append(f"{method.name:10}can't: {error}")
            continue
        counted = size(model)
        # Gradients and Adam's two moments in float32 for what is trained.
        memory = sum(p.numel() * p.element_size() for p in model.parameters()) + 12 * counted.trainable
        seconds = _training_seconds(job, model, precision.autocast) if method.trains else 0.0
        del model
        release_memory()
        seconds += _answering_seconds(job, _attached(job, method, precision.scored_bits))
        total += seconds * seeds
        rate = f"{job.learning_rate(method):.0e}" if method.trains else "-"
        lines.append(
            f"{method.name:10}{count_text(counted.trainable):>9}{count_text(counted.total):>9}{rate:>9}"
            f"{seconds / 60:9.1f}{bytes_text(memory):>10}  {_ships(job, method)}"
        )
    steps, every = steps_in(job.recipe.training, len(job.rows.train))
    lines.append(f"{steps} optimizer steps each, validated every {every}; about {total / 60:.0f} minutes in all")
    lines.append(
        "minutes: from a few steps and the beginnings of some answers, made now; memory: weights, gradients and "
        "optimizer"
    )
    return "\n".join(lines)


def _attached(job: Job, method: Method, bits: int, training: bool = False) -> nn.Module:
    base = load_model(job.checkpoint.path, bits, training=training)
    return attach(base, method, job.settings(method), job.typical_ids, seed=0, steps=job.steps)


def _ships(job: Job, method: Method) -> str:
    if not method.trains:
        return "-"
    mergeability = job.mergeability[method.name]
    if isinstance(mergeability, NotMergeable):
        return f"adapter only: {mergeability.reason}"
    return "plain checkpoint" if method.trains_base else "plain checkpoint, and adapter"


def _training_seconds(job: Job, model: nn.Module, autocast: bool) -> float:
    """Time of the whole training, from steps on a typical batch, of which the first warms up."""
    batch_size = job.recipe.training.batch_size
    rows = job.rows.train
    middle = max(0, len(rows) // 2 - batch_size // 2)
    typical = np.argsort(lengths(rows))[middle : middle + batch_size]
    objective = find_objective(job.recipe.training.objective)
    collate = objective.collator(job.renderer.tokenizer.pad_token_id or 0, 1)
    device = next(model.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in collate([rows[int(index)] for index in typical]).items()}
    model.train()
    linear_output = has_linear_output(model)
    taken = []
    with fast_training(model):
        for _ in range(1 + STEPS_TIMED):
            began = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                loss = objective.loss(model, batch, linear_output)
            (loss / objective.items(batch)).backward()
            next(p.grad for p in model.parameters() if p.grad is not None).sum().item()  # waits for an accelerator
            taken.append(time.perf_counter() - began)
    steps, _ = steps_in(job.recipe.training, len(rows))
    validation = job.recipe.training.validations * len(job.pairs["validation"]) / batch_size / 3
    return statistics.median(taken[1:]) * (steps + validation)


def _answering_seconds(job: Job, model: nn.Module) -> float:
    """Time for all answers: written ones from a few new tokens for a batch, chosen ones from a few examples."""
    pairs = [pair for split in job.evaluated.values() for pair in split]
    written = [rendered for example, rendered in pairs if not example.choices]
    chosen = [pair for pair in [*pairs, *job.pairs["validation"]] if pair[0].choices]
    with fast_evaluation(model.eval()):
        return _writing_seconds(job, model, written) + _choosing_seconds(job, model, chosen)


def _choosing_seconds(job: Job, model: nn.Module, pairs: Sequence[tuple[Example, Rendered]]) -> float:
    if not pairs:
        return 0.0
    some = pairs[:: max(1, len(pairs) // CHOICES_TIMED)][:CHOICES_TIMED]
    local = LocalModel(model, job.renderer)
    began = time.perf_counter()
    local.loglikelihood([example.prompt for example, _ in some], [example.choices for example, _ in some])
    return (time.perf_counter() - began) * len(pairs) / len(some)


def _writing_seconds(job: Job, model: nn.Module, rendered: Sequence[Rendered]) -> float:
    if not rendered:
        return 0.0
    some = rendered[:: max(1, len(rendered) // ANSWERS_TIMED)][:ANSWERS_TIMED]
    # References are read with the prompts, which takes its time and tells nothing new here.
    prompts = [replace(item, completion_ids=item.completion_ids[:1]) for item in some]
    pad_id, linear_output = job.renderer.tokenizer.pad_token_id or 0, has_linear_output(model)
    taken = []
    for asked, new_tokens in ((prompts[:2], 2), (prompts, 1), (prompts, 1 + TOKENS_TIMED)):  # the first to warm up
        began = time.perf_counter()
        decode_batch(model, asked, [NO_TOKEN], pad_id, new_tokens, linear_output)
        taken.append(time.perf_counter() - began)
    _, reading, longer = taken
    longest = min(max(len(item.completion_ids) for item in rendered), job.recipe.max_new_tokens)
    writing = (longer - reading) / TOKENS_TIMED * longest * len(rendered) / len(some)
    return reading * sum(item.length for item in rendered) / sum(item.length for item in prompts) + writing
