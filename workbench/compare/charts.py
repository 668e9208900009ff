"""Pictures of a run as SVG, to stand inside the report."""

import io
import re
from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from workbench.compare.paired import pareto_front
from workbench.console import count_text
from workbench.results import CurveRecord, RunRecord, TuningRecord

# Told apart by people who see red and green alike (Okabe and Ito 2008).
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#999999",
    "#7A5195",
    "#A05A2C",
)


def colour(methods: Sequence[str], method: str) -> str:
    """The colour of a method, the same in every picture."""
    return COLOURS[methods.index(method) % len(COLOURS)]


def quality_against_costs(
    runs: Sequence[RunRecord], metric: str, title: str, higher: bool, disturbed: Collection[str] = ()
) -> str:
    """One panel for each cost: trainable parameters, training time, memory.

    Args:
        disturbed: methods whose times are not to be compared: they are drawn hollow, and no front goes by their times.
    """
    methods = list(dict.fromkeys(run.method for run in runs))
    costs = (
        ("trainable_parameters", "trainable parameters", 1.0),
        ("train_seconds", "training time (minutes)", 1 / 60),
        ("peak_memory_bytes", "peak memory (GB)", 1e-9),
    )
    figure, axes = figure_of(1, len(costs), (11, 3.6))
    for axis, (key, label, factor) in zip(axes, costs, strict=True):
        points = {}
        for run in runs:
            score = run.metrics[metric]
            x, y = getattr(run, key) * factor, score.value
            points[run.method] = (x, y)
            error = [[y - score.low], [score.high - y]]
            hollow = {"markerfacecolor": "white"} if key == "train_seconds" and run.method in disturbed else {}
            axis.errorbar(x, y, yerr=error, fmt="o", capsize=3, color=colour(methods, run.method), zorder=3, **hollow)
        for run in runs:
            offset = (7, -13) if _label_above(run.method, points) else (7, 6)
            axis.annotate(run.method, points[run.method], xytext=offset, textcoords="offset points", fontsize=9)
        sign = 1 if higher else -1
        told = {
            name: (x, sign * y) for name, (x, y) in points.items() if key != "train_seconds" or name not in disturbed
        }
        better = pareto_front(told)
        front = sorted(points[name] for name in better)
        if front:
            axis.plot(*zip(*front, strict=True), color="#bbbbbb", linestyle="--", linewidth=1, zorder=1)
        if key == "trainable_parameters":
            axis.set_xscale("symlog", linthresh=1e4)
            # Matplotlib writes powers of ten as formulas, which are not set here.
            axis.xaxis.set_major_formatter(lambda value, _: count_text(int(value)) if value >= 0 else "")
        axis.set_xlabel(label)
        axis.margins(x=0.22, y=0.12)
    axes[0].set_ylabel(title)
    return svg(figure, f"{title} against cost; dashed: methods that no other beats in both")


def learning_curves(runs: Sequence[RunRecord]) -> str:
    """Training loss, smoothed, and validation loss by optimizer step, of the runs that were trained.

    Of several seeds their mean, and a band from the lowest to the highest.
    """
    methods = list(dict.fromkeys(run.method for run in runs))
    figure, axes = figure_of(1, 2, (11, 3.6))
    for method in methods:
        curves = [run.curve for run in runs if run.method == method and run.curve]
        if not curves:
            continue
        hue = colour(methods, method)
        steps, losses = _together(curves, "loss")
        smooth = np.array([_smoothed(of_seed) for of_seed in losses])
        if len(losses) == 1:
            axes[0].plot(steps, losses[0], color=hue, alpha=0.2, linewidth=0.8)
        validated, validation = _together(curves, "validation_loss")
        for axis, at, values, marker in ((axes[0], steps, smooth, None), (axes[1], validated, validation, "o")):
            axis.plot(at, values.mean(axis=0), color=hue, marker=marker, markersize=3.5, label=method)
            if len(values) > 1:
                axis.fill_between(at, values.min(axis=0), values.max(axis=0), color=hue, alpha=0.15, linewidth=0)
    for axis, label in zip(axes, ("training loss (nats per token)", "validation loss (nats per token)"), strict=True):
        axis.set_xlabel("optimizer step")
        axis.set_ylabel(label)
    axes[1].legend(frameon=False, fontsize=9)
    return svg(figure, "Learning curves")


def _together(curves: Sequence[Sequence[Mapping[str, float]]], key: str) -> tuple[list[float], np.ndarray]:
    """A loss of several seeds at the steps that all of them have: (steps,) and (seeds, steps)."""
    of_seeds = [{point["step"]: point[key] for point in curve if key in point} for curve in curves]
    steps = sorted(set.intersection(*(set(points) for points in of_seeds)))
    return steps, np.array([[points[step] for step in steps] for points in of_seeds])


def data_curves(curves: Sequence[CurveRecord], title: str) -> str:
    """Scores by the number of training rows, a panel for each entry: points, the line to twice the data, its end."""
    from matplotlib.ticker import NullLocator

    names, columns = [curve.entry for curve in curves], min(3, len(curves))
    figure, axes = figure_of(-(-len(curves) // columns), columns, (11, 3.2 * -(-len(curves) // columns)))
    for axis in axes[len(curves) :]:
        axis.set_visible(False)
    for axis, curve in zip(axes, curves, strict=False):
        hue = colour(names, curve.entry)
        for point in curve.points:
            score = point.score
            error = [[score.value - score.low], [score.high - score.value]]
            axis.errorbar(point.rows, score.value, yerr=error, fmt="o", capsize=3, color=hue)
        rows, twice = curve.points[-1].rows, curve.twice
        ends = np.array([curve.points[0].rows, 2 * rows])
        line = twice.value + curve.per_doubling.value * (np.log2(ends) - np.log2(2 * rows))
        axis.plot(ends, line, color=hue, linewidth=1)
        error = [[twice.value - twice.low], [twice.high - twice.value]]
        axis.errorbar(2 * rows, twice.value, yerr=error, fmt="o", capsize=3, color=hue, markerfacecolor="white")
        for number, one in enumerate(curve.crossings):
            style = ("--", ":", "-.")[number % 3]
            axis.axhline(one.score, color="#777777", linewidth=1, linestyle=style, label=one.other)
        axis.set_xscale("log")
        axis.set_xticks([*(point.rows for point in curve.points), 2 * rows])
        axis.xaxis.set_major_formatter(lambda value, _: count_text(int(value)))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_title(curve.entry, fontsize=11)
        axis.set_xlabel("training rows")
        if curve.crossings:
            axis.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel(title)
    return svg(figure, f"{title} by training rows")


def tuning_trials(records: Sequence[TuningRecord]) -> str:
    """Validation loss of every trial by its learning rate, a panel for each entry; the chosen one has a ring."""
    names = [record.entry for record in records]
    columns = min(3, len(records))
    figure, axes = figure_of(-(-len(records) // columns), columns, (11, 3.2 * -(-len(records) // columns)))
    for axis in axes[len(records) :]:
        axis.set_visible(False)
    for axis, record in zip(axes, records, strict=False):
        hue = colour(names, record.entry)
        x_name = next(iter(record.ranges))
        for trial in record.trials:
            if trial.validation_loss is None:
                continue
            at = trial.settings[x_name], trial.validation_loss
            filled = {} if trial.status == "done" else {"markerfacecolor": "white"}
            axis.plot(*at, marker="o", color=hue, **filled)
            if trial == record.chosen:
                axis.plot(*at, marker="o", markersize=13, markerfacecolor="none", color=hue)
            others = [f"{value:g}" for name, value in trial.settings.items() if name != x_name]
            axis.annotate(" ".join(others), at, xytext=(8, 4), textcoords="offset points", fontsize=8)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.xaxis.set_minor_formatter(lambda value, _: "")
        axis.set_title(record.entry, fontsize=11)
        axis.set_xlabel(x_name)
        axis.margins(x=0.15, y=0.12)
    axes[0].set_ylabel("validation loss (nats per token)")
    return svg(figure, "Trials of tuning: validation loss by learning rate")


def confusion_matrix(matrix: np.ndarray, names: Sequence[str], method: str) -> str:
    """How often each class (row) was taken for each (column): counts, shaded by their share of the row."""
    size = 1.6 + 0.55 * len(names)
    figure, (axis,) = figure_of(1, 1, (size + 0.6, size))
    axis.grid(visible=False)
    axis.imshow(matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(matrix):
        dark = count > 0.55 * matrix[row].sum()
        axis.text(column, row, f"{count:.0f}", ha="center", va="center", color="white" if dark else "black", fontsize=9)
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=9)
    axis.set_yticks(range(len(names)), names, fontsize=9)
    axis.set_xlabel("chosen")
    axis.set_ylabel("right")
    axis.set_title(method, fontsize=11)
    return svg(figure, f"Confusion matrix of {method}")


def _smoothed(values: Sequence[float], weight: float = 0.9) -> list[float]:
    """Exponential mean without the bias towards its start."""
    smooth, total, out = 0.0, 0.0, []
    for value in values:
        smooth, total = weight * smooth + (1 - weight) * value, weight * total + (1 - weight)
        out.append(smooth / total)
    return out


def figure_of(rows: int, columns: int, size: tuple[float, float]) -> Any:
    """A figure of `size` inches, and its axes one after another; a `$` in its texts begins no formula."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams["text.parse_math"] = False
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color="#eeeeee", linewidth=0.8)
        axis.set_axisbelow(True)
    return figure, axes


def _label_above(name: str, points: Mapping[str, tuple[float, float]]) -> bool:
    """Whether another point stands so near above this one that their labels would meet."""
    widths = [max(values) - min(values) or 1.0 for values in zip(*points.values(), strict=True)]
    x, y = points[name]
    return any(
        abs(other_x - x) < 0.25 * widths[0] and 0 < other_y - y < 0.1 * widths[1]
        for other_x, other_y in points.values()
    )


def svg(figure: Any, description: str) -> str:
    """A figure as an SVG element that stands inside a page; `description` is read aloud."""
    import matplotlib

    buffer = io.StringIO()
    # Text stays text, which can be searched and read aloud; a fixed salt gives the same file for the same run.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "workbench", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # The page decides how wide it is; and the metadata names addresses that a reader might take for requests.
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)
