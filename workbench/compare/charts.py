"""Pictures of a run as SVG, to stand inside the report."""

import io
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from workbench.compare.language import say
from workbench.compare.paired import pareto_front
from workbench.console import bytes_text, count_text
from workbench.results import CurveRecord, RunRecord, TuningRecord

# Told apart by people who see red and green alike (Okabe and Ito 2008), and in black and white by their marks.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999", "#7A5195", "#A05A2C")
MARKS = "osD^vP*Xp<>hd"
WIDTH = 11.0
# Panels beside each other, and names of methods beside each other below them.
COLUMNS, NAMES = 3, 6
LOSS = "nats per token"
HOLLOW: Mapping[str, Any] = {"markerfacecolor": "white"}


def colour(methods: Sequence[str], method: str) -> str:
    """The colour of a method, the same in every picture."""
    return COLOURS[methods.index(method) % len(COLOURS)]


def mark(methods: Sequence[str], method: str) -> str:
    """The mark of a method, the same in every picture."""
    return MARKS[methods.index(method) % len(MARKS)]


def quality_against_costs(
    runs: Sequence[RunRecord],
    methods: Sequence[str],
    metric: str,
    title: str,
    higher: bool,
    disturbed: Collection[str] = (),
) -> str:
    """One panel for each cost: trainable parameters, training time, memory, bytes that ship beside the base.

    Args:
        methods: of the run, by which colours are given.
        disturbed: methods whose times are not to be compared: they are drawn hollow, and no front goes by their times.
    """
    costs = (
        ("trainable_parameters", say("trainable parameters"), 1.0),
        ("train_seconds", say("training time (minutes)"), 1 / 60),
        ("peak_memory_bytes", say("peak memory of training (GB)"), 1e-9),
        ("adapter_bytes", say("bytes of what was trained"), 1.0),
    )
    figure, axes = figure_of(2, 2, (WIDTH, 6.6))
    for axis, (key, label, factor) in zip(axes, costs, strict=True):
        points = {run.method: (getattr(run, key) * factor, run.metrics[metric].value) for run in runs}
        for run in runs:
            score, (x, y) = run.metrics[metric], points[run.method]
            error = [[y - score.low], [score.high - y]]
            hollow = HOLLOW if key == "train_seconds" and run.method in disturbed else {}
            shape, hue = mark(methods, run.method), colour(methods, run.method)
            axis.errorbar(x, y, yerr=error, fmt=shape, capsize=3, color=hue, zorder=3, label=run.method, **hollow)
        told = {
            name: (x, y if higher else -y)
            for name, (x, y) in points.items()
            if key != "train_seconds" or name not in disturbed
        }
        if front := sorted(points[name] for name in pareto_front(told)):
            axis.plot(*zip(*front, strict=True), color="#bbbbbb", linestyle="--", linewidth=1, zorder=1)
        if factor == 1.0:
            axis.set_xscale("symlog", linthresh=1e4)
            text = count_text if key == "trainable_parameters" else bytes_text
            # Matplotlib writes powers of ten as formulas, which are not set here.
            axis.xaxis.set_major_formatter(lambda value, _, text=text: text(int(value)) if value >= 0 else "")
        axis.set_xlabel(label)
        axis.margins(x=0.1, y=0.12)
    axes[0].set_ylabel(title)
    axes[2].set_ylabel(title)
    _name_methods(figure, axes[0])
    return svg(figure, say("{title} against cost; dashed: methods that no other beats in both", title=title))


def learning_curves(runs: Sequence[RunRecord], methods: Sequence[str]) -> str:
    """Training loss, smoothed, and validation loss by optimizer step, of the runs that were trained.

    Of several seeds their mean, and a band from the lowest to the highest.
    """
    figure, axes = figure_of(1, 2, (WIDTH, 4.0))
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
        shape = mark(methods, method)
        for axis, at, values, marker in ((axes[0], steps, smooth, None), (axes[1], validated, validation, shape)):
            axis.plot(at, values.mean(axis=0), color=hue, marker=marker, markersize=4, label=method)
            if len(values) > 1:
                axis.fill_between(at, values.min(axis=0), values.max(axis=0), color=hue, alpha=0.15, linewidth=0)
    for axis, label in zip(axes, (say("training loss"), say("validation loss")), strict=True):
        axis.set_xlabel(say("optimizer step"))
        axis.set_ylabel(f"{label} ({say(LOSS)})")
    _name_methods(figure, axes[1])
    return svg(figure, say("Learning curves"))


def _together(curves: Sequence[Sequence[Mapping[str, float]]], key: str) -> tuple[list[float], np.ndarray]:
    """A loss of several seeds at the steps that all of them have: (steps,) and (seeds, steps)."""
    of_seeds = [{point["step"]: point[key] for point in curve if key in point} for curve in curves]
    steps = sorted(set.intersection(*(set(points) for points in of_seeds)))
    return steps, np.array([[points[step] for step in steps] for points in of_seeds])


def data_curves(curves: Sequence[CurveRecord], methods: Sequence[str], title: str) -> str:
    """Scores by the number of training rows, a panel for each entry: points, the line to twice the data, its end."""
    from matplotlib.ticker import NullLocator

    figure, panels = _panels(len(curves))
    for axis, curve in zip(panels, curves, strict=False):
        hue, shape = colour(methods, curve.entry), mark(methods, curve.entry)
        rows, twice = curve.points[-1].rows, curve.twice
        for at, score, filled in [*((p.rows, p.score, {}) for p in curve.points), (2 * rows, twice, HOLLOW)]:
            error = [[score.value - score.low], [score.high - score.value]]
            axis.errorbar(at, score.value, yerr=error, fmt=shape, capsize=3, color=hue, **filled)
        ends = np.array([curve.points[0].rows, 2 * rows])
        line = twice.value + curve.per_doubling.value * (np.log2(ends) - np.log2(2 * rows))
        axis.plot(ends, line, color=hue, linewidth=1)
        for number, one in enumerate(curve.crossings):
            style = ("--", ":", "-.")[number % 3]
            axis.axhline(one.score, color="#777777", linewidth=1, linestyle=style, label=one.other)
        axis.set_xscale("log")
        axis.set_xticks([*(point.rows for point in curve.points), 2 * rows])
        axis.xaxis.set_major_formatter(lambda value, _: count_text(int(value)))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_title(curve.entry, fontsize=11)
        axis.set_xlabel(say("training rows"))
        if curve.crossings:
            axis.legend(frameon=False, fontsize=8)
    panels[0].set_ylabel(title)
    return svg(figure, say("{title} by training rows", title=title))


def tuning_trials(records: Sequence[TuningRecord], methods: Sequence[str]) -> str:
    """Validation loss of every trial by its learning rate, a panel for each entry; the chosen one has a ring."""
    figure, panels = _panels(len(records))
    for axis, record in zip(panels, records, strict=False):
        hue, shape = colour(methods, record.entry), mark(methods, record.entry)
        name = next(iter(record.ranges))
        sizes = [other for other in record.ranges if other != name]
        for trial in record.trials:
            if trial.validation_loss is None:
                continue
            at = trial.settings[name], trial.validation_loss
            axis.plot(*at, marker=shape, color=hue, **({} if trial.status == "done" else HOLLOW))
            if trial == record.chosen:
                axis.plot(*at, marker="o", markersize=15, markerfacecolor="none", color=hue)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.xaxis.set_minor_formatter(lambda value, _: "")
        chosen = record.chosen
        told = ", ".join(f"{size} {chosen.settings[size]:g}" for size in sizes) if chosen else ""
        axis.set_title(f"{record.entry}: {told}" if told else record.entry, fontsize=11)
        axis.set_xlabel(name)
        axis.margins(x=0.15, y=0.15)
    panels[0].set_ylabel(f"{say('validation loss')} ({say(LOSS)})")
    return svg(figure, say("Trials of tuning: validation loss by learning rate"))


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
    axis.set_xlabel(say("chosen"))
    axis.set_ylabel(say("right"))
    axis.set_title(method, fontsize=11)
    return svg(figure, say("Confusion matrix of {method}", method=method))


def _smoothed(values: Sequence[float], weight: float = 0.9) -> list[float]:
    """Exponential mean without the bias towards its start."""
    smooth, total, out = 0.0, 0.0, []
    for value in values:
        smooth, total = weight * smooth + (1 - weight) * value, weight * total + (1 - weight)
        out.append(smooth / total)
    return out


def _panels(count: int) -> tuple[Any, Any]:
    """A figure with so many panels, a few beside each other."""
    columns = min(COLUMNS, count)
    lines = -(-count // columns)
    figure, axes = figure_of(lines, columns, (WIDTH, 3.3 * lines))
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes


def _name_methods(figure: Any, axis: Any) -> None:
    """Name the methods below all panels: no name lies over a point, nor over another name."""
    handles, labels = axis.get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(NAMES, len(labels)), frameon=False)


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


def svg(figure: Any, description: str) -> str:
    """A figure as an SVG element that stands inside a page; `description` is read aloud."""
    import matplotlib

    buffer = io.StringIO()
    # Text stays text, which can be searched and read aloud; a fixed salt gives the same file for the same run.
    with (
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "workbench", "font.family": "sans-serif"}),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the browser has it
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # The page decides how wide it is; and the metadata names addresses that a reader might take for requests.
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)
