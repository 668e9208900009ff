"""`--check`: everything a person should look at before training, without training."""

import tempfile
import time
from pathlib import Path

import numpy as np

from workbench.compare import answers_texts, near_text
from workbench.console import bytes_text, count_text
from workbench.data.render import Rendered, Renderer
from workbench.export import FreshProcess
from workbench.methods import Method, NotMergeable
from workbench.models import weight_shapes
from workbench.run.budget import fitted, pending
from workbench.run.data_info import quantiles
from workbench.run.folder import RunFolder
from workbench.run.forecast import Costs, forecast_text
from workbench.run.found import data_text, deduplicated
from workbench.run.measure import measure
from workbench.run.memory import stage_bytes
from workbench.run.prepare import Job
from workbench.run.prepared import prepare_run
from workbench.training import steps_in

EXAMPLES_SHOWN = 3
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
        _methods(job, folder),
    ]
    return "\n\n".join(parts)


def _splits(job: Job) -> str:
    lines = ["## Splits", f"{'':14}{'examples':>9}{'tokens':>9}{'trained':>9}{'too long':>9}"]
    for split, pairs in job.pairs.items():
        tokens, trained = int(pairs.lengths.sum()), int(pairs.completion_lengths.sum())
        lines.append(f"{split:14}{len(pairs):9}{tokens:9}{trained:9}{len(job.data.too_long[split]):9}")
    lines.append(
        f"left out of {deduplicated(job)}: {job.data.repeated} repeated, {job.data.leaked} that stand in another split"
    )
    lines += [f"{split}: {remark}" for split, said in job.remarks.items() for remark in said]
    lines += [near_text(near) for near in job.data.near]
    for split, contents in job.data.contents.items():
        lines += [f"{split}: {text}" for text in answers_texts(contents)]
    return "\n".join(lines)


def _lengths(job: Job) -> str:
    found = np.concatenate([pairs.lengths for pairs in job.pairs.values()])
    shown = ", ".join(f"{name} {value}" for name, value in quantiles(found).items())
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
    template = [f"chat template: {remark}" for remark in job.renderer.template.remarks]
    legend = f"## Examples as the model sees them (trained tokens between {TRAINED_OPEN} and {TRAINED_CLOSE})"
    return "\n".join([legend, *template, *shown])


def marked(renderer: Renderer, item: Rendered) -> str:
    """The text of an example with its trained tokens marked."""
    decode = renderer.tokenizer.decode
    return f"{decode(item.prompt_ids)}{TRAINED_OPEN}{decode(item.completion_ids)}{TRAINED_CLOSE}"


def _methods(job: Job, folder: RunFolder) -> str:
    with tempfile.TemporaryDirectory() as beside, FreshProcess() as process:  # a check makes no folder of a run
        costs = measure(job, pending(job, folder), Path(beside), process)
    minutes = folder.options.minutes
    began = time.perf_counter()
    part = fitted(job, folder, costs, began)
    lines = ["## Methods", f"{'':14}{'trained':>9}{'of':>9}{'rate':>9}{'memory':>10}  ships as"]
    for entry in job.tuned:
        cost, method, view = costs.entries[entry.name], entry.method, job.of(entry)
        if cost.problem:
            lines.append(f"{entry.name:14}can't be measured: {cost.problem}")
            continue
        rate = f"{view.learning_rate(method):.0e}" if method.trains else "-"
        counts = f"{count_text(cost.trainable):>9}{count_text(cost.total):>9}"
        lines.append(f"{entry.name:14}{counts}{rate:>9}{bytes_text(cost.memory_bytes):>10}  {_ships(view, method)}")
    steps, every = steps_in(part.recipe.training, len(part.rows.train))
    lines.append(f"{steps} optimizer steps each, validated every {every}")
    if minutes is not None:
        scored = ", ".join(
            f"{len(pairs)} of {len(job.pairs[split])} of {split}" for split, pairs in part.evaluated.items()
        )
        lines.append(f"to end within {minutes:g} minutes: {steps} of {job.steps} steps; scored are {scored}")
    return "\n".join([*lines, "", *_memory(job, costs), "", "## Time", forecast_text(part, costs, Path.cwd())])


def _memory(job: Job, costs: Costs) -> list[str]:
    """What each stage of a method holds, told from the shapes of the weights."""
    shapes = weight_shapes(job.checkpoint.path)
    lines = [
        f"## Memory of weights, gradients and optimizer (scored, merged and proven in {job.shipped_in})",
        f"{'':14}{'training':>10}{'scoring':>10}{'merging':>10}{'proving':>10}{'disk':>10}",
    ]
    for entry in job.tuned:
        cost = costs.entries[entry.name]
        if cost.problem:
            continue
        precision = job.of(entry).precision(entry.method)
        found = stage_bytes(shapes, entry.method, precision, cost.trainable, job.shipped_bits)
        lines.append(f"{entry.name:14}" + "".join(f"{bytes_text(one):>10}" for one in vars(found).values()))
    lines.append("activations and the cache of answers come on top; memory above was measured with them")
    return lines


def _ships(job: Job, method: Method) -> str:
    if not method.trains:
        return "-"
    mergeability = job.mergeability[job.name_of(method)]
    if isinstance(mergeability, NotMergeable):
        return f"adapter only: {mergeability.reason}"
    return "plain checkpoint" if method.trains_base else "plain checkpoint, and adapter"
