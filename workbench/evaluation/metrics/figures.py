"""Figures: in a bank's answer, the amount, the time frame and the percentage are what must be right."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from workbench.evaluation.metrics.metric import Metric
from workbench.evaluation.prediction import Prediction

# A time of day, or a number with an optional currency before it and an optional unit behind it.
FIGURE = re.compile(
    r"(?P<time>\b\d{1,2}:\d{2}\b)"
    r"|(?P<before>€\s?)?(?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)"
    r"(?:\s?(?P<unit>%|€|euros?\b|欧元|(?:business |working )?days?\b|个?工作日|天|日|weeks?\b|周|个?星期"
    r"|months?\b|个?月|years?\b|年|hours?\b|个?小时|minutes?\b|分钟|seconds?\b|秒))?",
    re.IGNORECASE,
)
UNITS = {
    "€": "euro", "euro": "euro", "欧元": "euro", "%": "percent",
    "business day": "business day", "working day": "business day", "工作日": "business day",
    "day": "day", "天": "day", "日": "day", "week": "week", "周": "week", "星期": "week",
    "month": "month", "月": "month", "year": "year", "年": "year", "hour": "hour", "小时": "hour",
    "minute": "minute", "分钟": "minute", "second": "second", "秒": "second",
}  # fmt: skip


def figures(text: str) -> Counter[tuple[float | str, str]]:
    """The figures of `text`, each as value and unit, with how often it stands there.

    >>> figures("0.5% of €3,000 is €15, within 4 business days")
    Counter({(0.5, 'percent'): 1, (3000.0, 'euro'): 1, (15.0, 'euro'): 1, (4.0, 'business day'): 1})
    """
    found: Counter[tuple[float | str, str]] = Counter()
    for match in FIGURE.finditer(text):
        if match["time"]:
            found[match["time"], "time"] += 1
            continue
        unit = "€" if match["before"] else (match["unit"] or "").lower().removeprefix("个")
        unit = unit if unit in UNITS else unit.removesuffix("s")
        found[float(match["number"].replace(",", "")), UNITS.get(unit, "")] += 1
    return found


def figure_statistics(answers: Sequence[Prediction]) -> np.ndarray:
    """Figures of the reference that the answer has too, and figures of the reference: (answers, 2)."""
    rows = []
    for answer in answers:
        expected = figures(answer.reference)
        rows.append(((expected & figures(answer.prediction)).total(), expected.total()))
    return np.array(rows, dtype=float).reshape(-1, 2)


def figure_score(sums: np.ndarray) -> float:
    """Share in percent; 100 where the references name no figure."""
    return float(100 * sums[0] / sums[1]) if sums[1] else 100.0


METRICS = (
    Metric(
        name="figures",
        title="right figures",
        summary="share of the reference's amounts, percentages and time frames that the answer names, in percent.",
        statistics=figure_statistics,
        score=figure_score,
        higher_is_better=True,
        worst=0,
        best=100,
        signature=lambda answers: "value and unit equal, counted with multiplicity",
    ),
)
