"""The trend as a page that renews itself: one file, opened from disk."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from workbench import files
from workbench.compare.charts import figure_of, svg
from workbench.compare.report import template
from workbench.monitor.watch import Topic, Watch

PAGE = "trend.html"
RENEW_SECONDS = 5
COLUMNS = 3
ALERTS_SHOWN = 20


def write_page(watch: Watch, alerts: Sequence[Mapping[str, Any]]) -> None:
    """Write `trend.html` into the folder of a watch.

    Args:
        alerts: the last ones, oldest first.
    """
    topics = dict(sorted(watch.topics.items()))
    page = template("workbench.monitor", "trend.html.jinja").render(
        renew_seconds=RENEW_SECONDS,
        name=Path(watch.stream).name,
        label=watch.monitoring.label,
        source=watch.stream,
        counts=watch.counts,
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}",
        window=_duration(watch.window_seconds),
        false_alarms=f"{watch.false_alarms:g}",
        picture=svg(_picture(watch, topics), f"Share of {watch.monitoring.label} texts by topic") if topics else "",
        alerts=list(alerts)[-ALERTS_SHOWN:],
    )
    files.write_text(watch.folder / PAGE, page)


def _picture(watch: Watch, topics: Mapping[str, Topic]) -> Any:
    rows = -(-len(topics) // COLUMNS)
    figure, axes = figure_of(rows, min(COLUMNS, len(topics)), (13, 2.4 * rows + 0.4))
    for axis in axes[len(topics) :]:
        axis.set_visible(False)
    starts = [datetime.fromtimestamp(w.start, UTC) for topic in topics.values() for w in topic.shown]
    for axis, (name, topic) in zip(axes, topics.items(), strict=False):
        axis.set_title(name, fontsize=10, loc="left")
        axis.set_ylim(0, 1.05)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        windows = topic.shown
        if not windows:
            axis.text(0.5, 0.5, "the first window is open", ha="center", transform=axis.transAxes, color="#999999")
            continue
        times = [datetime.fromtimestamp(window.start, UTC) for window in windows]
        most = max(window.texts for window in windows)
        width = watch.window_seconds / 86400
        axis.bar(times, [0.3 * w.texts / most for w in windows], width=width, color="#dddddd", align="edge")
        shares = [window.negative / window.texts for window in windows]
        axis.plot(times, shares, color="#0072B2", linewidth=1.3, marker="o", markersize=2)
        surges = [(t, s) for t, s, w in zip(times, shares, windows, strict=True) if w.surge]
        if surges:
            axis.plot(*zip(*surges, strict=True), "o", color="#D55E00", markersize=6)
        axis.set_xlim(min(starts), max(starts) + timedelta(seconds=watch.window_seconds))
        axis.tick_params(labelsize=8)
        for label in axis.get_xticklabels():
            label.set(rotation=25, ha="right")
    return figure


def _duration(seconds: float) -> str:
    for length, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds % length == 0:
            count = int(seconds // length)
            return f"{count} {unit}{'s' * (count > 1)}"
    return f"{seconds:g} seconds"
