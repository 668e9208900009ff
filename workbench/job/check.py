"""`--check`: everything a person should look at before training, without training."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from workbench.comparison.tables import bytes_text, count_text
from workbench.data import Example
from workbench.data.render import Rendered, Renderer
from workbench.errors import MethodError
from workbench.evaluation import Chooser
from workbench.job.job import Options, prepare_options
from workbench.job.prepare import Job
from workbench.methods import Method
from workbench.models import attach, bfloat16_is_fast, fast_training, has_plain_output, load_model, size
from workbench.training import steps_in
from workbench.training.joined import lengths
from workbench.training.loss import RightPadding, negative_log_likelihoods

EXAMPLES_SHOWN = 3
CHOICES_TIMED = 16
TRAINED_OPEN, TRAINED_CLOSE = "⟦", "⟧"


def check(options: Options) -> str:
    """Describe splits, lengths, examples, sizes and the time and memory that a run would take.

    Raises:
        UserError: whatever would be an error in a run.
    """
    job = prepare_options(options)
    parts = [
        f"# {job.path.stem}: {job.checkpoint.name}, base held at {job.bits} bits",
        _splits(job),
        _lengths(job),
        _examples(job),
        _methods(job, options.seeds),
    ]
    return "\n\n".join(parts)


def _splits(job: Job) -> str:
    lines = ["## Splits", f"{'':14}{'examples':>9}{'tokens':>9}{'trained':>9}{'too long':>9}"]
    for split, pairs in job.pairs.items():
        tokens, trained = int(pairs.lengths.sum()), int(pairs.completion_lengths.sum())
        lines.append(f"{split:14}{len(pairs):9}{tokens:9}{trained:9}{len(job.too_long[split]):9}")
    lines.append(f"left out of train: {job.repeated} repeated, {job.leaked} whose question stands in another split")
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
    rendered = job.rendered("train")
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
            model = _attached(job, method)
        except MethodError as error:
            lines.append(f"{method.name:10}can't: {error}")
            continue
        counted = size(model)
        training = _training_seconds(job, model) if method.trains else 0.0
        seconds = training + _answering_seconds(job, model)
        total += seconds * seeds
        rate = f"{job.learning_rate(method):.0e}" if method.trains else "-"
        # Gradients and Adam's two moments in float32 for what is trained.
        memory = sum(p.numel() * p.element_size() for p in model.parameters()) + 12 * counted.trainable
        lines.append(
            f"{method.name:10}{count_text(counted.trainable):>9}{count_text(counted.total):>9}{rate:>9}"
            f"{seconds / 60:9.1f}{bytes_text(memory):>10}  {_ships(job, method)}"
        )
        del model
    steps, every = steps_in(job.recipe.training, len(job.rows.train))
    lines.append(f"{steps} optimizer steps each, validated every {every}; about {total / 60:.0f} minutes in all")
    lines.append("minutes: from two steps and one batch of answers made now; memory: weights, gradients and optimizer")
    return "\n".join(lines)


def _attached(job: Job, method: Method) -> nn.Module:
    bits = 32 if method.trains_base else job.bits
    base = load_model(job.checkpoint.path, bits, training=True)
    return attach(base, method, job.settings(method), job.typical_ids, seed=0, steps=job.steps)


def _ships(job: Job, method: Method) -> str:
    if reason := job.adapter_only.get(method.name):
        return f"adapter only: {reason}"
    if method.trains_base:
        return "plain checkpoint"
    return "plain checkpoint, and adapter" if method.trains else "-"


def _training_seconds(job: Job, model: nn.Module) -> float:
    """Time of the whole training, from a step on a typical batch (the second: the first one warms up)."""
    batch_size = job.recipe.training.batch_size
    rows = job.rows.train
    middle = max(0, len(rows) // 2 - batch_size // 2)
    typical = np.argsort(lengths(rows))[middle : middle + batch_size]
    inputs = _batch(job, model, [rows[int(place)] for place in typical])
    model.train()
    autocast = job.bits < 32 and bfloat16_is_fast()
    plain = has_plain_output(model)
    with fast_training(model):
        for _ in range(2):
            began = time.perf_counter()
            with torch.autocast(inputs["input_ids"].device.type, torch.bfloat16, enabled=autocast):
                losses, _ = negative_log_likelihoods(model, **inputs, plain_output=plain)
            losses.mean().backward()
            next(p.grad for p in model.parameters() if p.grad is not None).sum().item()  # waits for an accelerator
            seconds = time.perf_counter() - began
    model.zero_grad(set_to_none=True)
    model.eval()
    steps, _ = steps_in(job.recipe.training, len(rows))
    validation = job.recipe.training.validations * len(job.pairs["validation"]) / batch_size / 3
    return seconds * (steps + validation)


def _answering_seconds(job: Job, model: nn.Module) -> float:
    """Time for all answers: written ones from a few new tokens for a batch, chosen ones from a few examples."""
    pairs = [pair for split in job.evaluated.values() for pair in split]
    written = [rendered for example, rendered in pairs if not example.choices]
    chosen = [pair for pair in [*pairs, *job.pairs["validation"]] if pair[0].choices]
    return _writing_seconds(job, model, written) + _choosing_seconds(job, model, chosen)


def _choosing_seconds(job: Job, model: nn.Module, pairs: Sequence[tuple[Example, Rendered]]) -> float:
    if not pairs:
        return 0.0
    some = pairs[:: max(1, len(pairs) // CHOICES_TIMED)][:CHOICES_TIMED]
    chooser = Chooser(model, job.renderer, [choice for example, _ in some for choice in example.choices])
    began = time.perf_counter()
    chooser.measure([rendered.prompt_ids for _, rendered in some], [example.choices for example, _ in some], "")
    return (time.perf_counter() - began) * len(pairs) / len(some)


def _writing_seconds(job: Job, model: nn.Module, rendered: Sequence[Rendered]) -> float:
    if not rendered:
        return 0.0
    together = min(32, len(rendered))
    prompts = [item.prompt_ids[:64] for item in rendered[:together]]
    longest = max(map(len, prompts))
    place = next(model.parameters()).device
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=place)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=place)
    began = time.perf_counter()
    with torch.inference_mode():
        model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            min_new_tokens=8,
            max_new_tokens=8,
            pad_token_id=0,
        )
    seconds = (time.perf_counter() - began) / 8
    answer = sorted(len(item.completion_ids) for item in rendered)[-1]
    return seconds * min(answer, job.recipe.max_new_tokens) * len(rendered) / together


def _batch(job: Job, model: nn.Module, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    collate = RightPadding(job.renderer.tokenizer.pad_token_id or 0)
    place = next(model.parameters()).device
    return {name: tensor.to(place) for name, tensor in collate(rows).items()}
