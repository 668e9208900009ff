"""What every entry of a job takes on this machine, from a few of its own steps and answers."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn

from workbench.data import Example
from workbench.data.render import Rendered
from workbench.errors import MethodError, UserError
from workbench.evaluation.calibration import choose, fitting_sample, usual_calibration
from workbench.evaluation.changes import general_loss, token_losses
from workbench.export import FreshProcess
from workbench.generation.context import most_tokens
from workbench.generation.engine import MOST_TOGETHER, LocalModel
from workbench.generation.language_model import LanguageModel
from workbench.methods import Mergeable, Method
from workbench.models import attach, fast_evaluation, load_model, release_memory, size, without_adapter
from workbench.recipe import LIKELIHOOD
from workbench.results import Forecast
from workbench.run.changes import reading_as_trained, samples, tokens_read
from workbench.run.entries import BaselineEntry, Entry, RerankerEntry
from workbench.run.forecast import Costs, EntryCost, Pending
from workbench.run.merge import PROOF_PROMPTS
from workbench.run.prepare import Job
from workbench.run.resources import watched
from workbench.run.scoring import may_prune
from workbench.run.timing import (
    disk_rate,
    reading_seconds,
    seconds_of,
    training_cost,
    writing_cost,
)
from workbench.run.usage import Meter
from workbench.training.rows import lengths

logger = logging.getLogger(__name__)

# Examples that are read as when it is looked at what else changed, and timed.
LOOKED_AT = 4
# Examples whose choices are timed, and examples of each split to which a baseline is fitted to time it.
CHOICES_TIMED, FITTED = 16, 200
# Plain transformers, which proves an export, takes so many times as long for a text as the engine here.
PLAIN = 1.5
# Prompts that it answers at once, and sequences whose logits are compared, by the trained model, the base and it.
PROVEN_TOGETHER, COMPARED = 34, 3 * 16
FLOAT32 = 4


def measure(job: Job, pending: Mapping[str, Pending], folder: Path, process: FreshProcess) -> Costs:
    """Time what each entry does, on a few of its examples.

    Args:
        pending: entry -> how often it is to be carried out.
        folder: on the disk that the run writes to.
        process: in which exports will be read; it is started, so that no forecast has to say what that takes.
    """
    if any(isinstance(job.mergeability[entry.name], Mergeable) for entry in job.tuned):
        process.start()
    meter = Meter()
    opened: list[_Base] = []

    def base() -> _Base:
        """The checkpoint, opened once, and only if an entry needs it."""
        if not opened:
            opened.append(_Base(job, folder))
        return opened[0]

    entries = {entry.name: replace(_cost(job, entry, base), **vars(pending[entry.name])) for entry in job.entries}
    busy = meter.read().others
    return Costs(
        entries=entries,
        validation_rows=len(job.rows.validation),
        busy=busy,
        general_loss=opened[0].general_loss if opened else None,
    )


def _cost(job: Job, entry: Entry, base: "Callable[[], _Base]") -> EntryCost:
    """What an entry takes. One that can't be measured stops no other: it is told when its turn comes."""
    try:
        if isinstance(entry, BaselineEntry):
            return _baseline_cost(job, entry)
        if isinstance(entry, RerankerEntry):
            return EntryCost(fixed=Forecast())  # a few numbers, in about no time
        return _method_cost(job.of(entry), entry.method, base())
    except (MethodError, UserError) as error:
        return EntryCost(fixed=Forecast(), problem=str(error))
    except Exception as error:
        logger.debug("%s can't be measured", entry.name, exc_info=True)
        return EntryCost(fixed=Forecast(), problem=f"{type(error).__name__}: {error}")


def _baseline_cost(job: Job, entry: BaselineEntry) -> EntryCost:
    """From a fit to some of the examples, all of one task."""
    seconds, timed = 0.0, 0
    chosen = {split: [e for e, _ in job.pairs[split][: FITTED * 4] if e.choices] for split in job.pairs}
    tasks = dict.fromkeys(e.task for split in job.evaluated for e in chosen[split])
    for task in tasks:
        some = {split: [e for e in found if e.task == task][:FITTED] for split, found in chosen.items()}
        asked = [e for split in job.evaluated for e in some[split]]
        seconds += seconds_of(lambda some=some, asked=asked: entry.function(some["train"], some["validation"], asked))  # type: ignore[misc]
        timed += sum(map(len, some.values()))
    there = sum(map(len, job.pairs.values()))
    return EntryCost(fixed=Forecast(training=seconds * max(1.0, there / max(1, timed))))


class _Base:
    """The checkpoint as it is, and what its answers take; every method is compared with it.

    Attributes:
        loading: seconds to load it.
        disk: bytes a second that are written and read again.
    """

    def __init__(self, job: Job, folder: Path) -> None:
        self.job = job
        self.written = [item for pairs in job.evaluated.values() for e, item in pairs if not e.choices]
        self.chosen = [e for pairs in job.evaluated.values() for e, _ in pairs if e.choices]
        self.calibrating = [e for e, _ in job.pairs["validation"] if e.choices] if self.chosen else []
        model: nn.Module | None = None

        def load() -> None:
            nonlocal model
            model = None  # there may be no memory for two
            release_memory()
            model = load_model(job.checkpoint.path, job.shipped_bits)

        load()  # what is imported for it is not imported again
        self.loading = seconds_of(load)
        assert model is not None
        self.total = size(model).total
        with watched() as memory, fast_evaluation(model):
            (self.reading,) = reading_seconds([partial(_as_it_is, model)], self.first()[0])
            self.together = self._together(model)
            self.writing = writing_cost(job, model, self.written or self.first(), self.together)
            local = LocalModel(model, job.heads[LIKELIHOOD].renderer)
            self.choosing = self.choosing_seconds(local)
            self.calibration = self._calibration_seconds(local)
            began = time.perf_counter()
            self.general_loss = general_loss(model, job.renderer.tokenizer)
            self.general = time.perf_counter() - began
            self.looking = self._looking_seconds(model)
        self.memory_bytes = memory.peak_bytes
        self.disk = disk_rate(folder)
        del model
        release_memory()

    def first(self) -> list[Rendered]:
        """Prompts on which an export is proven."""
        return [item for _, item in self.job.first_pairs(PROOF_PROMPTS)]

    def slower(self, model: nn.Module, bits: int) -> float:
        """How many times as long as the base, as it is scored, a model with an adapter takes to read."""
        item = self.first()[0]
        if bits < self.job.shipped_bits:
            return reading_seconds([partial(_as_it_is, model)], item)[0] / self.reading
        tuned, plain = reading_seconds([partial(_as_it_is, model), partial(without_adapter, model)], item)
        return max(1.0, tuned / plain)

    def opening_seconds(self, slower: float, bases: int) -> float:
        """To open what was trained, and to hold its validation loss against that of the trained model.

        Args:
            bases: on which that is tried.
        """
        rows = self.job.rows
        tokens = len(rows.checked) * float(lengths(rows.validation).mean())
        return max(1, bases) * (2 * self.loading + slower * self.writing.token * tokens)

    def _together(self, model: nn.Module) -> int:
        """Rows with which answers are written."""
        items = self.written or self.first()
        longest = max(item.length for item in items) + self.job.recipe.max_new_tokens
        return max(1, min(MOST_TOGETHER, most_tokens(model) // longest, len(items)))

    def choosing_seconds(self, model: LanguageModel) -> float:
        """In which a model chooses for one example."""
        return _choosing_seconds(model, self.chosen, isinstance(model, LocalModel) and may_prune(self.job))

    def _calibration_seconds(self, model: LanguageModel) -> float:
        """To calibrate: of examples to which that is fitted, all choices are read."""
        fitted = len(self.calibrating)
        if may_prune(self.job):
            tasks = {example.task for example in self.calibrating}
            fitted = sum(len(fitting_sample([e for e in self.calibrating if e.task == task])) for task in tasks)
        rest = len(self.calibrating) - fitted
        return fitted * _choosing_seconds(model, self.calibrating, False) + rest * self.choosing

    def writing_seconds(self, answers: np.ndarray) -> float:
        """Of all answers that are written, given their lengths."""
        return self.writing.seconds(sum(item.length for item in self.written), answers, self.together)

    def _looking_seconds(self, model: nn.Module) -> float:
        """To read examples that were trained on and others, of all that there are to be scored; see `changes_of`."""
        some = samples(self.job)[0]
        timed = [item for _, item in some[:: max(1, len(some) // LOOKED_AT)]]
        if not timed:
            return 0.0
        pad_id = self.job.renderer.tokenizer.pad_token_id or 0
        with reading_as_trained(self.job):
            seconds = seconds_of(lambda: token_losses(model, timed, pad_id))
        return seconds * tokens_read(self.job) / sum(item.length for item in timed)

    @property
    def files_seconds(self) -> float:
        """To merge a checkpoint, write and read it."""
        return 2 * self.loading + 2 * self.total * self.job.shipped_bits / 8 / self.disk

    def proof_seconds(self, answers: np.ndarray) -> float:
        """To prove an export on all prompts that there are for it, given the lengths of answers."""
        prompts = self.first()
        some = np.resize(answers if len(answers) else self.job.recipe.max_new_tokens, len(prompts))
        tokens = sum(item.length for item in prompts)
        plain = PLAIN * self.writing.seconds(tokens, some, PROVEN_TOGETHER)
        compared = min(COMPARED, 3 * len(prompts)) * self.writing.token * tokens / len(prompts)
        written = self.writing.seconds(tokens, some, self.together) if self.chosen else 0.0
        return plain + compared + written

    def class_proof_seconds(self, choosing: float) -> float:
        """The same for a head of classes, which takes `choosing` for one prompt: each is read five times in all."""
        return len(self.first()) * choosing * (3 + 2 * PLAIN)


def _as_it_is(model: nn.Module) -> AbstractContextManager[nn.Module]:
    return nullcontext(model)


def _choosing_seconds(model: LanguageModel, examples: Sequence[Example], prune: bool) -> float:
    """In which a model chooses for one of the examples, on average; see `choose`."""
    some = examples[:: max(1, len(examples) // CHOICES_TIMED)][:CHOICES_TIMED]
    if not some:
        return 0.0
    usual = {example.task: usual_calibration(example.choices, prune) for example in some}
    return seconds_of(lambda: choose(model, some, usual, "", "", prune)) / len(some)


def _method_cost(job: Job, method: Method, base: _Base) -> EntryCost:
    """Of a tuned method, or of the untuned checkpoint."""
    references = np.array([min(len(item.completion_ids), job.recipe.max_new_tokens) for item in base.written])
    if not method.trains:
        answers = np.full_like(references, job.recipe.max_new_tokens)  # it has not learned when to end
        return EntryCost(
            fixed=Forecast(evaluation=base.loading + base.calibration + base.general),
            evaluation=base.writing_seconds(answers) + len(base.chosen) * base.choosing + base.looking,
            memory_bytes=base.memory_bytes,
            total=base.total,
        )
    precision = job.precision(method)
    with watched() as memory:
        model = _attached(job, method, precision.trained_bits, training=True)
        counted = size(model)
        training = training_cost(job, model, precision.autocast)
        del model
        release_memory()
        model = _attached(job, method, precision.scored_bits)
        with fast_evaluation(model.eval()):
            slower = 1.0 if method.trains_base else base.slower(model, precision.scored_bits)
            choosing, calibration = slower * base.choosing, slower * base.calibration
            if job.head.labels is not None:
                choosing = base.choosing_seconds(job.head.language_model(model))
                calibration = len(base.calibrating) * choosing
        del model
        release_memory()
    merges = isinstance(job.mergeability[job.name_of(method)], Mergeable)
    exports, proof = merges or method.trains_base, 0.0
    if exports:
        writes = job.head.labels is None
        proof = slower * base.proof_seconds(references) if writes else base.class_proof_seconds(choosing)
    adapter, merged = counted.trainable * FLOAT32, base.total * job.shipped_bits // 8
    return EntryCost(
        fixed=Forecast(
            training=base.loading + 4 * adapter / base.disk,
            evaluation=base.opening_seconds(slower, len(precision.bases)) + calibration + slower * base.general,
            export=base.files_seconds if exports else 0.0,
        ),
        training=training,
        evaluation=slower * (base.writing_seconds(references) + base.looking) + len(base.chosen) * choosing,
        proof=proof / len(base.first()),
        memory_bytes=max(memory.peak_bytes, training.memory_bytes, base.memory_bytes),
        disk_bytes=(0 if method.trains_base else adapter) + (merged if exports else 0),
        trainable=counted.trainable,
        total=counted.total,
    )


def _attached(job: Job, method: Method, bits: int, training: bool = False) -> nn.Module:
    base = job.head.load(job.checkpoint.path, bits, training=training)
    return attach(base, method, job.settings(method), job.typical_ids, seed=0, steps=job.steps)
