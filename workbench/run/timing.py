"""What parts of a run take on this machine, measured on a few of the run's own examples."""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from workbench import files
from workbench.data.render import Rendered
from workbench.device import device, synchronize
from workbench.generation.cache import concatenate_caches
from workbench.generation.context import open_context, tokens_at_once
from workbench.generation.decode import open_batch
from workbench.generation.sampling import Sampler, Sampling
from workbench.models import fast_training, has_linear_output
from workbench.recipe import Training
from workbench.run.prepare import Job
from workbench.run.resources import watched
from workbench.training.activations import ROW, KeptActivations, Place, with_places
from workbench.training.configuration import rows_together
from workbench.training.rows import lengths
from workbench.training.trainer import padding_multiple

# Steps of decoding that are timed; the first is left out.
STEPS_TIMED = 3
# How many times each of some models reads a prompt to be compared, after the time in which is made what is made once.
TURNS = 2
NO_TOKEN = -1  # at which no answer ends
DISK_BYTES = 2**26


def seconds_of(call: Callable[[], Any]) -> float:
    """Wall-clock time of a call, the accelerator's work included."""
    began = time.perf_counter()
    call()
    synchronize()
    return time.perf_counter() - began


def disk_rate(folder: Path) -> float:
    """Bytes a second that are written to `folder` and read again, each once; the system keeps them in memory."""
    block = np.random.default_rng(0).bytes(DISK_BYTES)
    with tempfile.NamedTemporaryFile(dir=folder, suffix=files.ASIDE) as file:
        path = Path(file.name)
        return DISK_BYTES / seconds_of(lambda: (path.write_bytes(block), path.read_bytes()))


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """What a training takes.

    Attributes:
        step: seconds of an average optimizer step.
        validation: seconds of a validation on all rows.
        memory_bytes: the most that was in use, scaled to the longest batch.
    """

    step: float
    validation: float
    memory_bytes: int


def training_cost(job: Job, model: nn.Module, autocast: bool) -> TrainingCost:
    """Time two steps of the training to come, a usual one and a large one, and a part of a validation.

    Args:
        model: attached, in training mode; its weights are changed.
    """
    training, rows = job.recipe.training, job.rows.train
    multiple = padding_multiple(model, int(lengths(rows).max()))
    batches = batches_of(lengths(rows), training, seed=0)
    sizes = np.array([padded_tokens(lengths(rows)[batch], training, multiple) for batch in batches])
    order = np.argsort(sizes, kind="stable")
    middle, high = (int(share * (len(order) - 1)) for share in (0.5, 0.9))
    beside = min(middle + 1, len(order) - 1)
    warm, usual, large = (int(order[place]) for place in (beside, middle, high))
    with tempfile.TemporaryDirectory() as kept_in, fast_training(model):
        step = _Step(job, model, autocast, multiple, Place(Path(kept_in), "timed"))
        step(batches[warm])  # of about the shape of the usual one: in a training, too, a shape is new only once
        with watched() as before:
            seconds = {usual: seconds_of(lambda: step(batches[usual]))}
        with watched() as memory:
            if large != usual:
                seconds[large] = seconds_of(lambda: step(batches[large]))
        again = seconds_of(lambda: step(batches[usual])) if step.kept.splits else seconds[usual]
        validation = _validation_seconds(job, step)
    mean = _line(sizes, {number: (sizes[number], taken) for number, taken in seconds.items()})
    peak = max(before.peak_bytes, memory.peak_bytes)
    more = max(0, peak - before.peak_bytes) if large != usual else 0
    grown = (sizes.max() - sizes[large]) / max(1, sizes[large] - sizes[usual])
    # What frozen layers give is computed in the first epoch only.
    epochs = max(1.0, job.steps * training.batch_size / len(rows))
    mean *= (1 + (epochs - 1) * min(1.0, again / seconds[usual])) / epochs
    return TrainingCost(step=mean, validation=validation, memory_bytes=int(peak + more * min(grown, 4.0)))


def batches_of(row_lengths: np.ndarray, training: Training, seed: int) -> list[np.ndarray]:
    """The batches of an epoch, as the Trainer draws them: indices of rows, those of like length together."""
    from transformers.trainer_pt_utils import LengthGroupedSampler

    generator = torch.Generator().manual_seed(seed)
    together = rows_together(training)
    sampler = LengthGroupedSampler(together, lengths=list(map(int, row_lengths)), generator=generator)
    order = np.array(list(sampler))
    return [order[start : start + training.batch_size] for start in range(0, len(order), training.batch_size)]


def padded_tokens(row_lengths: np.ndarray, training: Training, multiple: int) -> int:
    """Tokens that are computed for the rows of an optimizer step, padding included."""
    together = rows_together(training)
    parts = [row_lengths[start : start + together] for start in range(0, len(row_lengths), together)]
    return sum(len(part) * -(-int(part.max()) // multiple) * multiple for part in parts)


def _line(sizes: np.ndarray, seen: dict[int, tuple[int, float]]) -> float:
    """Mean time of batches of `sizes`, on a line through what was seen of one or two of them."""
    (small, least), (large, most) = min(seen.values()), max(seen.values())
    slope = (most - least) / (large - small) if large > small else 0.0
    if not 0 < slope <= least / small:  # it can't begin below zero, nor fall
        slope = (least + most) / (small + large)
    return float(np.mean(least + slope * (sizes - small)))


class _Step:
    """An optimizer step of a training, on rows by their indices."""

    def __init__(self, job: Job, model: nn.Module, autocast: bool, multiple: int, kept_in: Place) -> None:
        self.job, self.model, self.autocast = job, model, autocast
        self.objective = job.rows.objective
        self.collate = with_places(self.objective.collator(job.renderer.tokenizer.pad_token_id or 0, multiple))
        self.kept = KeptActivations(model, autocast, kept_in, job.rows)
        self.linear_output = has_linear_output(model)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-6)

    def __call__(self, indices: np.ndarray) -> None:
        """Forwards, backwards, update."""
        self.model.train()
        together = rows_together(self.job.recipe.training)
        for start in range(0, len(indices), together):
            batch = self.batch(self.job.rows.train, indices[start : start + together])
            (self.loss(batch) / self.objective.items(batch)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def batch(self, rows: Any, indices: Sequence[int] | np.ndarray) -> dict[str, torch.Tensor]:
        """Rows as tensors on the model's device."""
        where = next(self.model.parameters()).device
        some = [{**rows[int(index)], ROW: int(index)} for index in indices]
        return {name: t.to(where) for name, t in self.collate(some).items()}

    def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Of a batch, with its graph."""
        computing = torch.autocast(device().type, torch.bfloat16, enabled=self.autocast)
        with computing, self.kept.of(batch, self.model.training):
            return self.objective.loss(self.model, batch, self.linear_output)


def _validation_seconds(job: Job, step: _Step) -> float:
    """Time of a validation on all rows, from a batch of such of middling length, as large as one of the training."""
    row_lengths = lengths(job.rows.validation)
    together = rows_together(job.recipe.training)
    order = np.argsort(row_lengths, kind="stable")
    middle = max(0, len(order) // 2 - together // 2)
    some = order[middle : middle + together]
    step.model.eval()
    batch = step.batch(job.rows.validation, some)
    with torch.no_grad():
        taken = seconds_of(lambda: step.loss(batch))
    return taken * float(row_lengths.sum()) / float(row_lengths[some].sum())


@dataclass(frozen=True, kw_only=True)
class WritingCost:
    """What written answers take, in seconds.

    Attributes:
        token: to read one of a prompt or a reference.
        step: of decoding, whatever it has of rows.
        row: more for each row of it.
    """

    token: float
    step: float
    row: float

    def seconds(self, tokens: int, answers: np.ndarray, together: int) -> float:
        """Of answers to prompts.

        Args:
            tokens: of all prompts and references together.
            answers: tokens of each answer, (answers,).
            together: answers that are written at once.
        """
        if not len(answers):
            return 0.0
        batches = -(-len(answers) // together)
        return tokens * self.token + batches * float(answers.max()) * self.step + float(answers.sum()) * self.row


@torch.inference_mode()
def writing_cost(job: Job, model: nn.Module, items: Sequence[Rendered], together: int) -> WritingCost:
    """Time the reading of some prompts and references, and steps of decoding with few rows and with many.

    Args:
        model: in evaluation mode.
        items: what is to be answered.
        together: rows with which answers are written.
    """
    pad_id, linear_output = job.renderer.tokenizer.pad_token_id or 0, has_linear_output(model)
    order = sorted(range(len(items)), key=lambda index: items[index].length)
    middle = order[len(order) // 2]
    count = max(1, min(len(items), tokens_at_once(model) // items[middle].length))
    first = max(0, min(len(order) - count, len(order) // 2 - count // 2))
    some = [items[index] for index in order[first : first + count]]
    greedy = Sampler(Sampling(), range(len(some)))
    warm = [replace(some[0], completion_ids=some[0].completion_ids[:1])]
    opened: list[Any] = []

    def read(batch: Sequence[Rendered], new: int) -> None:
        opened.append(open_batch(model, batch, [NO_TOKEN], pad_id, new, linear_output, greedy))

    read(warm, 1)
    token = seconds_of(lambda: read(some, STEPS_TIMED)) / sum(item.length for item in some)
    context = open_context(model, 1)
    if context.cache is None:  # everything is read again for each new token
        answered = sum(item.length for item in some) / len(some)
        return WritingCost(token=token, step=0.0, row=token * answered)
    few, many = max(1, together // 4), together
    times = {rows: _step_seconds(model, some[0].prompt_ids, rows) for rows in {few, many}}
    row = max(0.0, (times[many] - times[few]) / max(1, many - few))
    return WritingCost(token=token, step=max(0.0, times[many] - row * many), row=row)


def _step_seconds(model: nn.Module, prompt_ids: Sequence[int], rows: int) -> float:
    """Time of a step of decoding behind as many copies of a prompt."""
    context = open_context(model, 1)
    where = next(model.parameters()).device
    ids = torch.tensor([list(prompt_ids)], device=where)
    mask = torch.ones(1, context.virtual_tokens + ids.shape[1], dtype=torch.long, device=where)
    output = context.read(ids, mask)
    copies = torch.zeros(rows, dtype=torch.long, device=where)
    context = replace(context, cache=output.past_key_values).selected(copies)
    context = replace(context, cache=concatenate_caches([context.cache], 1 + STEPS_TIMED))
    mask, tokens = mask[copies], ids[copies, -1:]
    taken = []
    for _ in range(1 + STEPS_TIMED):
        mask = torch.cat([mask, mask.new_ones(rows, 1)], dim=1)
        taken.append(seconds_of(lambda read=mask: context.read(tokens, read)))  # type: ignore[misc]
    return float(np.median(taken[1:]))


def reading_seconds(models: Sequence[Callable[[], AbstractContextManager[nn.Module]]], item: Rendered) -> list[float]:
    """Times in which models read a prompt, taken in turns: a machine is not always equally fast.

    Args:
        models: each gives one while it is open; several may be one model in several states.
    """
    times: list[list[float]] = [[] for _ in models]
    for _ in range(1 + TURNS):
        for taken, opened in zip(times, models, strict=True):
            with opened() as model:
                taken.append(_reading_seconds(model, item))
    return [min(taken[1:]) for taken in times]


@torch.inference_mode()
def _reading_seconds(model: nn.Module, item: Rendered) -> float:
    ids = torch.tensor([item.prompt_ids], device=next(model.parameters()).device)
    mask = torch.ones_like(ids)
    return seconds_of(lambda: model(input_ids=ids, attention_mask=mask, use_cache=False))
