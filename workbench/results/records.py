"""What came of one entry with one seed: scores, costs, what ships."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

DONE: Literal["done"] = "done"
FAILED: Literal["failed"] = "failed"


@dataclass(frozen=True, kw_only=True)
class Score:
    """A value with its 95 % interval.

    Attributes:
        value: of the metric, in its own unit.
        low, high: the interval's bounds.
        sd: standard deviation between the scores of single seeds, where the value is their mean.
    """

    value: float
    low: float
    high: float
    sd: float | None = None


@dataclass(frozen=True, kw_only=True)
class ExportRecord:
    """What can be shipped.

    Attributes:
        merged: whether there is a merged checkpoint that transformers runs by itself, proven equal.
        reason: why not.
        max_abs_logit_difference: of the reloaded checkpoint to the trained model.
        greedy_agreement: share of held-out prompts with the same greedy text; of a head of classes, the same class.
        max_abs_logit: the largest logit, by which the difference is to be judged.
        base_logit_difference: largest difference of the base's logits to the trained model's.
        greedy_token_agreement: share of the compared positions with the same likeliest token, given the same text.
        prompts: held-out prompts that were answered.
        base: into which weights it was merged, where the base was held at less than 32 bits while training.
        validation_loss_by_base: nats per token on each base that it was tried on, the chosen one's first.
        speed: of the merged checkpoint in answering, as a multiple of the adapter's on its base.
    """

    merged: bool
    reason: str | None = None
    max_abs_logit_difference: float | None = None
    greedy_agreement: float | None = None
    max_abs_logit: float | None = None
    base_logit_difference: float | None = None
    greedy_token_agreement: float | None = None
    prompts: int | None = None
    base: str | None = None
    validation_loss_by_base: Mapping[str, float] | None = None
    speed: float | None = None


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What an entry was expected to take, in seconds, by what this machine showed before anything was trained.

    Attributes:
        training, evaluation, export: its three stages.
    """

    training: float = 0.0
    evaluation: float = 0.0
    export: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.training + self.evaluation + self.export


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a stage took of the machine.

    Attributes:
        seconds: wall-clock time.
        processor_seconds: of all cores, by this program.
        others: cores' worth of time that other processes took meanwhile, and the host of a virtual machine.
        joules: that the machine used, with everything that ran on it; None where it doesn't tell.
    """

    seconds: float
    processor_seconds: float
    others: float
    joules: float | None = None


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What is another in a model beside what was asked of it; of the untuned checkpoint, what it is.

    Attributes:
        general_loss: nats per token on a fixed general text in English and Chinese; None of a model that writes
            nothing. What it is above the untuned checkpoint's was forgotten.
        membership: how often an example that was trained on has a lower loss than one that was not: the area under the
            ROC curve of a membership inference by loss; 0.5 tells nothing. What the untuned checkpoint has tells how
            far the two differ by themselves. None where there are too few, or the trainings did not come to all rows.
        trained_on, held_out: examples of each by which that was measured.
        named, verbatim: figures and names in the answers of those trained on that do not stand in their prompts, and
            how many of these the model would write itself, given all that stands before each.
    """

    general_loss: float | None = None
    membership: Score | None = None
    trained_on: int = 0
    held_out: int = 0
    named: int = 0
    verbatim: int = 0


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One entry of the comparison with one seed.

    Attributes:
        method: the entry's name.
        head: "classes" where a head of classes was trained, see `Recipe`; None elsewhere.
        tuned_by: the method, where the entry has another name.
        seed: from which new weights and the order of the examples were drawn.
        bits, precision: how the frozen base was held while training; in what it was scored, merged and proven.
        status, error: "done" or "failed", and why.
        metrics: label -> score: `bleu` over all, `bleu[test]` of a split, `bleu[language=zh]` of a group.
        signatures: metric -> how exactly it was computed.
        baseline: it is no language model, but stands beside them.
        fixed: no seed changes it, so that one stands for all.
        reranks: of a reranker, the name of the entry whose choices it ranks anew.
        trainable_parameters, total_parameters: numbers that were trained, and of the whole model with them.
        train_seconds, evaluation_seconds, export_seconds: wall-clock time; of training, of all its parts.
        resumed: its training was interrupted, and gone on with.
        train_tokens_per_second: tokens of the rows trained on, without padding.
        peak_memory_bytes: while training; of what isn't trained, while scoring.
        evaluation_peak_memory_bytes: while scoring.
        learning_rate: the highest one of the training; None where nothing was trained.
        export: what can be shipped.
        adapter_bytes: of the adapter's weights, or of all trained weights where there is no adapter.
        seconds_per_1000_texts: wall-clock time in which it answers 1,000 of what is asked, chosen or written, by what
            was scored: of a method that merges, the adapter on its base, see `ExportRecord.speed`; of a baseline that
            fits and answers in one go, with the fitting.
        steps: optimizer steps that were made.
        validation_loss: of the state that was kept, nats per token; of a head of classes, per text.
        validation_loss_as_trained, validation_loss_as_shipped: on some validation examples, by the trained model and by
            the saved one; likewise.
        warning: what a reader of the scores should know.
        curve: `{"step", "loss"}` and `{"step", "validation_loss"}`, in order.
        choosing: task -> how likelihoods of choices became probabilities.
        changes: what else is another in it.
        forecast: what it was expected to take.
        training_usage, evaluation_usage: what was used of the machine, and by others.
        product_seconds: what a reference product of two matrices took before and after it.
        manifest: the checksums of what it left stand in its `manifest.json`.
    """

    method: str
    seed: int
    bits: int
    status: Literal["done", "failed"]
    trainable_parameters: int
    total_parameters: int
    train_seconds: float
    evaluation_seconds: float
    peak_memory_bytes: int
    adapter_bytes: int
    export: ExportRecord
    error: str | None = None
    metrics: Mapping[str, Score] = field(default_factory=dict)
    signatures: Mapping[str, str] = field(default_factory=dict)
    baseline: bool = False
    fixed: bool = False
    reranks: str | None = None
    head: str | None = None
    tuned_by: str | None = None
    export_seconds: float = 0.0
    train_tokens_per_second: float | None = None
    evaluation_peak_memory_bytes: int | None = None
    learning_rate: float | None = None
    seconds_per_1000_texts: float | None = None
    steps: int | None = None
    validation_loss: float | None = None
    validation_loss_as_trained: float | None = None
    validation_loss_as_shipped: float | None = None
    resumed: bool = False
    precision: str = "float32"
    warning: str | None = None
    curve: Sequence[Mapping[str, float]] = ()
    choosing: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    changes: Changes | None = None
    forecast: Forecast | None = None
    training_usage: Usage | None = None
    evaluation_usage: Usage | None = None
    product_seconds: Sequence[float] = ()
    manifest: bool = False

    @property
    def method_name(self) -> str:
        """Of the method that was trained, whatever the entry is called."""
        return self.tuned_by or self.method

    @property
    def seconds_as_shipped(self) -> float | None:
        """Wall-clock time of 1,000 answers of what ships: of the merged checkpoint, where there is one."""
        if self.seconds_per_1000_texts is None:
            return None
        return self.seconds_per_1000_texts / (self.export.speed or 1.0)

    @property
    def done(self) -> bool:
        """Whether it was carried to its end."""
        return self.status == DONE
