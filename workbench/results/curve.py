"""How a score grows with the training data, and what more of them would give."""

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.results.records import Score


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """A part of the training data and what training on it alone scores.

    Attributes:
        rows: different training rows that were read; of a training that was cut short, those that it came to.
        score: on the examples of the curve.
        seconds: wall-clock time that it took beside the run; 0 of the whole, which is the run's own.
    """

    rows: int
    score: Score
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """From how many training rows on an entry scores more than another that learns nothing of them, or little.

    Attributes:
        other: the entry that it is held against.
        score: of the other one, on the examples of the curve.
        rows: by the fitted curve; None where it never does, or always did.
        low, high: 95 % bounds; None where there is none.
        above: whether it does with all rows that there are.
    """

    other: str
    score: float
    rows: float | None
    low: float | None
    high: float | None
    above: bool


@dataclass(frozen=True, kw_only=True)
class CurveRecord:
    """The score of an entry by the number of training rows: a straight line over their logarithm.

    Attributes:
        entry: its name.
        label: of the score, such as `bleu[test]`.
        examples: by which it was measured, the same for all points; a part of those of the run.
        points: nested parts of the training rows, the whole last; all with the run's first seed.
        per_doubling: what twice the rows add, by the line.
        twice: what is expected of twice the rows that there are.
        crossings: where it passes entries that no training changes.
        seeds_counted: whether the intervals cover other seeds, too, of which a run of several knows.
    """

    entry: str
    label: str
    examples: int
    points: Sequence[CurvePoint]
    per_doubling: Score
    twice: Score
    crossings: Sequence[Crossing] = ()
    seeds_counted: bool = False
