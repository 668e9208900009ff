"""Under what a run was carried out: its data, metrics, checkpoint, time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workbench.results.curve import CurveRecord
from workbench.results.records import RunRecord
from workbench.results.tuning import TuningRecord


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """What a metric says.

    Attributes:
        title, summary: as the report prints it, and what it says.
        higher_is_better: its direction.
        worst, best: its range; None where it has no bound.
        chance: its value for a model that guesses, where that is known.
    """

    title: str
    summary: str
    higher_is_better: bool
    worst: float | None
    best: float | None
    chance: float | None


@dataclass(frozen=True, kw_only=True)
class SplitContents:
    """What the answers of a split are.

    Attributes:
        labels: task -> label -> examples, the commonest first; of tasks with few labels.
        written, distinct: examples whose answer is written, and different answers of these.
        blank: of these, without a letter or digit.
        commonest, commonest_count: the beginning of the answer that stands there most often, and how often; empty and 0
            where none stands there twice.
    """

    labels: Mapping[str, Mapping[str, int]]
    written: int
    distinct: int
    blank: int
    commonest: str
    commonest_count: int


@dataclass(frozen=True, kw_only=True)
class SplitInfo:
    """One split: its size, the ids of examples that were too long, and the fingerprint of its rows.

    Attributes:
        examples: that there are, those too long left out.
        tokens, trained_tokens: of prompts and answers, and of answers alone.
        too_long: ids of examples that were left out.
        sha256: of its rows.
        examples_sha256: of the examples made of them, which may hang on a document, too; "" of older versions.
        lengths: tokens of prompt and answer together: the "shortest", "median", "90 %" and "longest".
        contents: what its answers are; None of older versions.
        remarks: what else the reader of its scores should know, in sentences.
    """

    examples: int
    tokens: int
    trained_tokens: int
    too_long: Sequence[str]
    sha256: str
    examples_sha256: str = ""
    lengths: Mapping[str, float] | None = None
    contents: SplitContents | None = None
    remarks: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class NearCopies:
    """Examples of a split whose question is nearly that of an example of another one, or of one before it.

    Attributes:
        split, of: the split, and the one in which something like it stands.
        examples: of `split` that have such a one.
        same_answer: of these, with the same answer.
        looked_at: examples of both that were looked at.
        shown: some of them: id in `split`, id in `of`, share of shingles in common; those with the same answer first.
    """

    split: str
    of: str
    examples: int
    same_answer: int
    looked_at: int
    shown: Sequence[tuple[str, str, float]] = ()


@dataclass(frozen=True, kw_only=True)
class DataInfo:
    """All splits, and how many training examples were left out: repeated ones, and ones of another split.

    Attributes:
        splits: name -> what is in it.
        repeated, leaked: training examples that were left out since they stood there before, or in another split.
        near: examples that are near copies of others, before any were left out.
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
    near: Sequence[NearCopies] = ()


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """The base: its name as given, its terms, and the checksum of the file it was made from, where that is pinned.

    Attributes:
        name: as it was given; of a local one the last part of its path.
        licence: its terms, as far as they are known.
        sha256: of the file that it came in, where that is pinned.
        base_sha256: of its weights and configuration, by which every later command knows it again.
        general_loss: nats per token on a fixed general text, as it is scored; what a tuned model's is above that was
            forgotten.
    """

    name: str
    licence: str
    sha256: str | None
    base_sha256: str | None = None
    general_loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class Price:
    """What an hour of the machine costs.

    Attributes:
        hour: in `currency`.
        currency: as it was written; empty where none was.
    """

    hour: float
    currency: str = ""

    @classmethod
    def of(cls, text: str) -> "Price":
        """Of what a user wrote, such as "1.20 USD" or "0.9".

        Raises:
            ValueError: it is no price.
        """
        number, _, currency = text.strip().partition(" ")
        hour = float(number)
        if not 0 < hour < math.inf:
            raise ValueError(f"{text!r} is no price above 0")
        return cls(hour=hour, currency=currency.strip())

    def of_seconds(self, seconds: float) -> float:
        """What so many of them cost."""
        return self.hour * seconds / 3600


def price(text: str) -> str:
    """The text, if it is a price; for argparse.

    Raises:
        ValueError: it is none.
    """
    Price.of(text)
    return text


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


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """Where the wall-clock time of a run went.

    Attributes:
        total: from the command's beginning, of all parts of a run that was interrupted.
        training, evaluation, export: of all entries.
        tuning: of the trials by which settings were chosen.
        curve: of trainings on parts of the data, and scoring them.
        other: the rest: loading, preparing data, measuring, comparing.
        beside: whether trainings were carried out beside each other: then they may take more than the total, and what
            is left of it is not known.
    """

    total: float
    training: float
    evaluation: float
    export: float
    other: float
    tuning: float = 0.0
    curve: float = 0.0
    beside: bool = False

    @classmethod
    def of(
        cls,
        runs: Sequence[RunRecord],
        total: float,
        tuning: Sequence[TuningRecord] = (),
        curves: Sequence[CurveRecord] = (),
        beside: bool = False,
    ) -> "Seconds":
        """The parts of a run that has taken `total` seconds so far."""
        points = sum(point.seconds for curve in curves for point in curve.points)
        trials = sum(record.seconds for record in tuning)
        training = sum(run.train_seconds for run in runs)
        evaluation = sum(run.evaluation_seconds for run in runs)
        export = sum(run.export_seconds for run in runs)
        parts = trials + points + training + evaluation + export
        if not beside:  # a training that was finished before an interruption brings its time along
            total = max(total, parts)
        return cls(
            total=total,
            training=training,
            evaluation=evaluation,
            export=export,
            other=0.0 if beside else total - parts,
            tuning=trials,
            curve=points,
            beside=beside,
        )
