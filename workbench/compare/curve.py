"""A score as a line over the logarithm of the training rows, with what is uncertain about it."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from workbench.compare.language import joined, say
from workbench.evaluation import Metric, Prediction
from workbench.evaluation.intervals import by_source, interval, parts_of, resampled_sums
from workbench.results import Crossing, CurvePoint, CurveRecord, Score

# Answers of one part of the training data: rows, what was said, seconds.
Point = tuple[int, Sequence[Prediction], float]
# Further than this many times the data nothing is told.
FURTHEST = 1000.0


def fitted_curve(
    metric: Metric,
    split: str,
    entry: str,
    points: Sequence[Point],
    others: Mapping[str, Sequence[Prediction]],
    deviation: float | None = None,
) -> CurveRecord:
    """Fit a line through the scores of parts of the training data, and look along it.

    Its uncertainty is that of a paired bootstrap over the scored examples: every resample has the same examples for all
    points and all others, and a line of its own. With a standard deviation between seeds, each point is moved by it.

    Args:
        points: by rows, the whole last; each answered the same examples of `split`.
        others: entries that no training changes -> answers to these examples at least.
        deviation: between the scores of single seeds, where it is known.
    """
    label = f"{metric.name}[{split}]"
    asked = {(one.split, one.id) for one in points[0][1]}
    sums = [_sums(metric, label, answers, asked) for _, answers, _ in points]
    logs = np.log2([rows for rows, _, _ in points])
    design = np.stack([np.ones(len(logs)), logs - logs[-1]], axis=1)  # the score of the whole, and what a doubling adds
    scores = np.array([metric.score(one.sum(axis=0)) for one in sums])
    drawn = np.array([[metric.score(total) for total in resampled_sums(one)] for one in sums])  # (points, resamples)
    if deviation:
        drawn = drawn + np.random.default_rng(0).normal(0.0, deviation, size=drawn.shape)
    line = np.linalg.lstsq(design, scores, rcond=None)[0]
    lines = np.linalg.lstsq(design, drawn, rcond=None)[0]  # (2, resamples)
    return CurveRecord(
        entry=entry,
        label=label,
        examples=len(asked),
        points=[
            CurvePoint(rows=rows, score=interval(metric, one), seconds=seconds)
            for (rows, _, seconds), one in zip(points, sums, strict=True)
        ],
        per_doubling=_score(line[1], lines[1]),
        twice=_within(metric, _score(line[0] + line[1], lines[0] + lines[1])),
        crossings=[
            _crossing(metric, name, points[-1][0], (line, lines), _sums(metric, label, answers, asked))
            for name, answers in others.items()
        ],
        seeds_counted=bool(deviation),
    )


def curve_text(curve: CurveRecord, title: str) -> str:
    """What a curve says, in a few sentences."""
    twice = curve.twice
    said = [
        say(
            "{entry}: each doubling of the training rows changes {title} by {slope}; of {rows} rows {expected} is "
            "expected.",
            entry=curve.entry,
            title=title,
            slope=f"{curve.per_doubling.value:+.2f} [{curve.per_doubling.low:+.2f}, {curve.per_doubling.high:+.2f}]",
            rows=f"{2 * curve.points[-1].rows:,}",
            expected=f"{twice.value:.1f} [{twice.low:.1f}, {twice.high:.1f}]",
        )
    ]
    return joined([*said, *map(_crossing_text, curve.crossings)])


def _crossing_text(one: Crossing) -> str:
    told = {"other": one.other, "score": f"{one.score:.1f}"}
    if one.rows is None and one.above:
        return say("It is ahead of {other} ({score}).", **told)
    if one.rows is None:
        return say("It is behind {other} ({score}), and not known to reach it.", **told)
    low = say("few") if one.low is None else f"{one.low:,.0f}"
    high = say("no bound") if one.high is None else f"{one.high:,.0f}"
    rows = f"{one.rows:,.0f} [{low}, {high}]"
    if one.above:
        return say("It passes {other} ({score}) at about {rows} rows.", **told, rows=rows)
    return say("It would pass {other} ({score}) at about {rows} rows.", **told, rows=rows)


def _sums(metric: Metric, label: str, answers: Sequence[Prediction], asked: set[tuple[str, str]]) -> np.ndarray:
    """Statistics by source of the answers that all points gave, in one order: (sources, k)."""
    some = sorted((one for one in answers if (one.split, one.id) in asked), key=lambda one: one.id)
    statistics, sources = parts_of(metric, some, ())[label]
    return by_source(statistics, sources)


def _score(value: float, resampled: np.ndarray) -> Score:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Score(value=float(value), low=min(float(low), float(value)), high=max(float(high), float(value)))


def _within(metric: Metric, score: Score) -> Score:
    least, most = sorted((metric.worst, metric.best))
    return Score(**{name: min(max(value, least), most) for name, value in vars(score).items() if value is not None})


def _crossing(
    metric: Metric, other: str, rows: int, lines: tuple[np.ndarray, np.ndarray], sums: np.ndarray
) -> Crossing:
    """Where a line meets the score of another entry that answered the same examples."""
    line, drawn = lines
    level = metric.score(sums.sum(axis=0))
    levels = np.array([metric.score(total) for total in resampled_sums(sums)])
    sign = 1.0 if metric.higher_is_better else -1.0
    at, some = _meets(sign * line, sign * level), _meets(sign * drawn, sign * levels)
    low, high = np.percentile(some, [2.5, 97.5], method="nearest")  # some lines never meet it
    return Crossing(
        other=other,
        score=float(level),
        rows=_rows(rows, float(at)),
        low=_rows(rows, float(low)),
        high=_rows(rows, float(high)),
        above=bool(sign * (line[0] - level) > 0),
    )


def _meets(line: np.ndarray, level: float | np.ndarray) -> np.ndarray:
    """Doublings of all rows from which on a rising line lies above a level: infinite where it never does."""
    whole, slope = line
    with np.errstate(divide="ignore", invalid="ignore"):
        doublings = (level - whole) / slope
    return np.where(slope > 0, doublings, np.where(whole > level, -np.inf, np.inf))


def _rows(rows: int, doublings: float) -> float | None:
    """As many; None where that is far outside of what was seen."""
    return rows * 2.0**doublings if abs(doublings) <= math.log2(FURTHEST) else None
