"""Figures: in a bank's answer, the amount, the time frame and the percentage are what must be right."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from workbench.evaluation.metrics.metric import Metric
from workbench.evaluation.prediction import Prediction

CURRENCIES = {
    "euro": ("€", "EUR", "euros?", "欧元"), "dollar": (r"\$", "USD", "dollars?", "美元"),
    "pound": ("£", "GBP", "pounds?", "英镑"), "yuan": ("¥", "￥", "CNY", "RMB", "yuan", "元", "人民币"),
    "yen": ("JPY", "yen", "円", "日元"), "franc": ("CHF", "francs?"), "rupee": ("₹", "INR", "rupees?"),
}  # fmt: skip
SPANS = {
    "percent": ("%", "％", "percent", "per cent", "pct"),
    "business day": ("(?:business|working) days?", "个?工作日"), "day": ("days?", "天", "日"),
    "week": ("weeks?", "周", "个?星期"), "month": ("months?", "个?月"), "year": ("years?", "年"),
    "hour": ("hours?", "个?小时"), "minute": ("minutes?", "分钟"), "second": ("seconds?", "秒"),
}  # fmt: skip


def _named(prefix: str, forms: dict[str, tuple[str, ...]]) -> str:
    """A pattern for each name, as a group of that name; a form of letters ends where its word does."""
    groups = []
    for name, some in forms.items():
        ended = [rf"{form}(?![A-Za-z])" if re.search(r"[A-Za-z]", form) else form for form in some]
        groups.append(f"(?P<{prefix}_{name.replace(' ', '_')}>{'|'.join(ended)})")
    return "|".join(groups)


# A time of day, or a number with an optional currency before it and an optional unit behind it. Thousands are set apart
# by commas, points, apostrophes or narrow spaces.
FIGURE = re.compile(
    r"(?P<time>\b\d{1,2}:\d{2}\b)"
    rf"|(?:(?:{_named('before', CURRENCIES)})\s?)?"
    r"(?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,}"
    r"|\d{1,3}(?:['’\u00a0\u202f]\d{3})+(?:[.,]\d+)?|\d+,\d{1,2}(?!\d)|\d+(?:\.\d+)?)"
    rf"(?:\s?(?:{_named('behind', CURRENCIES | SPANS)}))?",
    re.IGNORECASE,
)
# Behind a comma stand one or two digits of a decimal number, or three that belong to thousands.
DECIMAL_COMMA = re.compile(r",\d{1,2}$|\.\d{3},\d+$|['’\u00a0\u202f]\d{3},\d+$")
THOUSANDS = re.compile(r"\d{1,3}\.\d{3}")


def figures(text: str) -> Counter[tuple[float | str, str]]:
    """The figures of `text`, each as value and unit, with how often it stands there.

    Thousands and decimals are told apart by how they are written: 1,234.50 and 1.234,50 are the same number. A point
    with three digits behind it is a decimal one, but in an amount of money.

    >>> figures("0.5% of €3,000 is €15, within 4 business days")
    Counter({(0.5, 'percent'): 1, (3000.0, 'euro'): 1, (15.0, 'euro'): 1, (4.0, 'business day'): 1})
    """
    found: Counter[tuple[float | str, str]] = Counter()
    for match in FIGURE.finditer(text):
        if match["time"]:
            found[match["time"], "time"] += 1
            continue
        named = (name for name, said in match.groupdict().items() if said and "_" in name)
        unit = next(named, "").partition("_")[2].replace("_", " ")
        number = match["number"]
        if unit in CURRENCIES and THOUSANDS.fullmatch(number):
            number = number.replace(".", "")
        found[_value(number), unit] += 1
    return found


def _value(number: str) -> float:
    if DECIMAL_COMMA.search(number):
        whole, _, decimals = number.rpartition(",")
        return float(f"{re.sub(r'[^0-9]', '', whole)}.{decimals}")
    if number.count(".") > 1:
        number = number.replace(".", "")
    return float(re.sub(r"[^0-9.]", "", number))


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
        applies=lambda answer: not answer.choices and bool(figures(answer.reference)),
    ),
)
