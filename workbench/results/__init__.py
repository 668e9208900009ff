"""What a run found, as `results.json` keeps it. This module alone knows the file's keys.

The dataclasses' fields are the keys. Fields with a default stand in the file only where there is something to say.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from workbench import files
from workbench.errors import UserError

# Of the file's form. 1 was version 0.1: it has no `schema`, and labels of groups are without the group's name.
SCHEMA = 2
DONE: Literal["done"] = "done"
FAILED: Literal["failed"] = "failed"


@dataclass(frozen=True, kw_only=True)
class Score:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


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


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What an entry was expected to take, in seconds, by what this machine showed before anything was trained."""

    training: float = 0.0
    evaluation: float = 0.0
    export: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.training + self.evaluation + self.export


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a run was expected to take, and what of the recipe's job it carried out to end in time.

    Attributes:
        minutes: that it was given; None without a limit.
        seconds: that the whole was expected to take, from the command's beginning.
        memory_bytes, disk_bytes: that it was expected to need.
        steps: optimizer steps of every method.
        full_steps: of the recipe as it stands.
        train_tokens: that every method reads in them, by an average row.
        evaluated: split -> examples that were scored.
        evaluated_of: split -> examples that there are.
    """

    minutes: float | None
    seconds: float
    memory_bytes: int
    disk_bytes: int
    steps: int
    full_steps: int
    train_tokens: int
    evaluated: Mapping[str, int]
    evaluated_of: Mapping[str, int]

    @property
    def was_cut(self) -> bool:
        """Whether the run carried out a part only."""
        return self.steps < self.full_steps or dict(self.evaluated) != dict(self.evaluated_of)


# In the file even where there is nothing to say: scripts rely on them.
ALWAYS = {
    "ExportRecord": ("reason", "max_abs_logit_difference", "greedy_agreement"),
    "RunRecord": ("error", "metrics", "train_tokens_per_second", "learning_rate", "warning"),
    "Results": ("runs", "comparisons"),
    "Budget": ("minutes",),
}


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
        reranks: of a reranker, the name of the entry whose choices it ranks anew.
        train_seconds, evaluation_seconds, export_seconds: wall-clock time; of training, of all its parts.
        resumed: its training was interrupted, and gone on with.
        train_tokens_per_second: tokens of the rows trained on, without padding.
        peak_memory_bytes: while training; of what isn't trained, while scoring.
        adapter_bytes: of the adapter's weights, or of all trained weights where there is no adapter.
        seconds_per_1000_texts: wall-clock time in which it answers 1,000 of what is asked, chosen or written; of a
            baseline that fits and answers in one go, with the fitting.
        steps: optimizer steps that were made.
        validation_loss: of the state that was kept, nats per token; of a head of classes, per text.
        validation_loss_as_trained, validation_loss_as_shipped: on some validation examples, by the trained model and by
            the saved one; likewise.
        warning: what a reader of the scores should know.
        curve: `{"step", "loss"}` and `{"step", "validation_loss"}`, in order.
        choosing: task -> how likelihoods of choices became probabilities.
        forecast: what it was expected to take.
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
    forecast: Forecast | None = None
    manifest: bool = False

    @property
    def method_name(self) -> str:
        """Of the method that was trained, whatever the entry is called."""
        return self.tuned_by or self.method

    @property
    def done(self) -> bool:
        """Whether it was carried to its end."""
        return self.status == DONE


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """What a metric says; `worst` and `best` are None where it has no bound."""

    title: str
    summary: str
    higher_is_better: bool
    worst: float | None
    best: float | None
    chance: float | None


@dataclass(frozen=True, kw_only=True)
class SplitInfo:
    """One split: its size, the ids of examples that were too long, and the fingerprint of its rows.

    Attributes:
        examples_sha256: of the examples made of them, which may hang on a document, too; "" of older versions.
        remarks: what else the reader of its scores should know, in sentences.
    """

    examples: int
    tokens: int
    trained_tokens: int
    too_long: Sequence[str]
    sha256: str
    examples_sha256: str = ""
    remarks: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class DataInfo:
    """All splits, and how many training examples were left out: repeated ones, and ones of another split.

    Attributes:
        split_seed: by which one source was divided into the splits; None where each has a source.
        columns: of the text, its label or answer, and the choices, where rows became examples by these.
        thinking: whether prompts let the model think aloud before it answers.
        template: what a person should know of the chat template, in sentences.
    """

    splits: Mapping[str, SplitInfo]
    repeated: int
    leaked: int
    split_seed: int | None = None
    columns: Mapping[str, str | Sequence[str] | None] | None = None
    thinking: bool = False
    template: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """The base: its name as given, its terms, and the checksum of the file it was made from, where that is pinned.

    Attributes:
        base_sha256: of its weights and configuration, by which every later command knows it again.
    """

    name: str
    licence: str
    sha256: str | None
    base_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two entries beside each other on the same examples: the score of `b` minus that of `a`.

    Attributes:
        p: two-sided p-value of approximate randomization, see `workbench.compare.paired`.
        p_adjusted: for the number of pairs, by Holm's method.
        items: independent examples that both are scored on; turns of one conversation are one. None in older files.
    """

    a: str
    b: str
    metric: str
    split: str
    difference: float
    low: float
    high: float
    p: float
    p_adjusted: float
    items: int | None = None


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """Where the wall-clock time of a run went."""

    total: float
    training: float
    evaluation: float
    export: float
    other: float

    @classmethod
    def of(cls, runs: Sequence[RunRecord], total: float) -> "Seconds":
        """The parts of a run that has taken `total` seconds so far."""
        training = sum(run.train_seconds for run in runs)
        evaluation = sum(run.evaluation_seconds for run in runs)
        export = sum(run.export_seconds for run in runs)
        parts = training + evaluation + export
        total = max(total, parts)  # a training that was finished before an interruption brings its time along
        return cls(total=total, training=training, evaluation=evaluation, export=export, other=total - parts)


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that a run found.

    Attributes:
        schema: of the file's form.
        recipe, recipe_sha256: the recipe's name and its file's checksum; None where it is no file.
        headline: the recipe's primary metric.
        evaluated_splits: in the recipe's order.
        metrics: by name.
        environment: machine and versions.
        budget: what the run was expected to take, and what was cut to end in time.
    """

    schema: int = SCHEMA
    recipe: str
    recipe_sha256: str | None
    checkpoint: CheckpointInfo
    headline: str
    evaluated_splits: Sequence[str]
    metrics: Mapping[str, MetricInfo]
    environment: Mapping[str, Any]
    data: DataInfo
    runs: Sequence[RunRecord] = ()
    comparisons: Sequence[Comparison] = ()
    seconds: Seconds | None = None
    budget: Budget | None = None

    @property
    def several_seeds(self) -> bool:
        """Whether any entry stands there with more than one."""
        return len({run.seed for run in self.runs}) > 1

    @property
    def compared_split(self) -> str:
        """The split by whose primary metric entries are compared: the first that has a score."""
        scored = {label for run in self.runs for label in run.metrics}
        splits = self.evaluated_splits
        return next((split for split in splits if f"{self.headline}[{split}]" in scored), splits[0])

    @property
    def compared_label(self) -> str:
        """The score by which entries are compared, such as `bleu[test]`."""
        return f"{self.headline}[{self.compared_split}]"


def to_json(value: Any) -> Any:
    """A dataclass of this module as what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        always = ALWAYS.get(type(value).__name__, ())
        return {
            f.name: to_json(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if f.name in always or _required(f) or not _says_nothing(getattr(value, f.name), f)
        }
    if isinstance(value, Mapping):
        return {name: to_json(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(part) for part in value]
    return value


def _says_nothing(value: Any, f: "dataclasses.Field[Any]") -> bool:
    """Whether a field need not stand in the file: it is empty, or a zero by default."""
    return value in (None, (), {}, [], False) and (value != 0 or value is False or value == f.default)


def _required(f: "dataclasses.Field[Any]") -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def write_results(file: Path, results: Results) -> None:
    """Write `results` as JSON, whole or not at all."""
    files.write_json(file, to_json(results))


def read_results(file: Path) -> Results:
    """Read what `write_results` wrote.

    Raises:
        UserError: the file is of an older or newer form, or is damaged; the message says what to do.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        schema = values.get("schema", 1)
    except (ValueError, AttributeError, OSError, RecursionError) as error:
        raise UserError(f"{file} can't be read as results of a run: {error}") from error
    if schema != SCHEMA:
        older = "an older" if isinstance(schema, int) and schema < SCHEMA else "another"
        raise UserError(
            f"{file} is of schema {schema}, written by {older} version of workbench; this one reads {SCHEMA}: use that "
            "version with this folder, or run the recipe again"
        )
    try:
        return TypeAdapter(Results).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{file} is damaged at {where}: {first['msg']}; run the recipe again") from error
