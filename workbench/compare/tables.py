"""The comparison as a table, for the terminal and for Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.console import bytes_text, count_text

COST_COLUMNS = ("trained", "seconds", "tokens/s", "memory", "adapter", "ships as")


def score_columns(results: Mapping[str, Any]) -> dict[str, str]:
    """Names in a run's `metrics` -> heads: the headline on every split, other metrics on the first they apply to."""
    primary_metric, splits = results["headline"], results["evaluated_splits"]
    scored = {label for run in results["runs"] for label in run["metrics"]}
    found: dict[str, str] = {}
    for name in sorted(results["metrics"], key=lambda name: name != primary_metric):
        title = results["metrics"][name]["title"]
        labels = {split: f"{name}[{split}]" for split in splits if f"{name}[{split}]" in scored}
        first = next(iter(labels), splits[0])
        if name == primary_metric:
            found |= {label: f"{title} {split}" for split, label in labels.items()}
        elif labels:
            found[labels[first]] = title if labels[first].endswith(f"[{splits[0]}]") else f"{title} {first}"
    return found


def compared_split(results: Mapping[str, Any]) -> str:
    """The split by whose headline score methods are compared: the first that has one."""
    scored = {label for run in results["runs"] for label in run["metrics"]}
    splits = results["evaluated_splits"]
    return next((split for split in splits if f"{results['headline']}[{split}]" in scored), splits[0])


def head(results: Mapping[str, Any]) -> list[str]:
    """Heads of all columns."""
    return ["method", *score_columns(results).values(), *COST_COLUMNS]


def rows(results: Mapping[str, Any]) -> list[list[str]]:
    """A row of cells for each run."""
    several = len({run["seed"] for run in results["runs"]}) > 1
    return [cells(run, list(score_columns(results)), several) for run in results["runs"]]


def time_text(results: Mapping[str, Any]) -> str:
    """Where the time of a whole run went, in a sentence."""
    seconds = results["seconds"]
    parts = ", ".join(f"{name} {seconds[name] / 60:.1f}" for name in ("training", "evaluation", "export"))
    return f"The run took {seconds['total'] / 60:.1f} minutes: {parts}, everything else {seconds['other'] / 60:.1f}."


def cells(run: Mapping[str, Any], names: Sequence[str], several_seeds: bool) -> list[str]:
    """One row: scores with their intervals, then costs."""
    label = f"{run['method']} (seed {run['seed']})" if several_seeds else run["method"]
    if run["status"] != "done":
        reason = " ".join(str(run["error"]).replace("|", "/").split())
        return [label, f"failed: {reason}", *[""] * (len(names) - 1 + len(COST_COLUMNS))]
    scores = [score_text(run["metrics"][name]) if name in run["metrics"] else "-" for name in names]
    speed = run["train_tokens_per_second"]
    export = run["export"]
    ships = "plain checkpoint" if export["merged"] else "adapter" if run["adapter_bytes"] else "-"
    return [
        label,
        *scores,
        count_text(run["trainable_parameters"]),
        f"{run['train_seconds']:.0f}",
        f"{speed:.0f}" if speed else "-",
        bytes_text(run["peak_memory_bytes"]),
        bytes_text(run["adapter_bytes"]) if run["adapter_bytes"] else "-",
        ships,
    ]


def score_text(score: Mapping[str, float]) -> str:
    """A value with its interval, in three or four digits."""
    digits = 2 if abs(score["value"]) < 10 else 1
    return f"{score['value']:.{digits}f} [{score['low']:.{digits}f}, {score['high']:.{digits}f}]"


def table(results: Mapping[str, Any]) -> str:
    """The comparison in Markdown, its columns aligned so that a terminal shows it as well."""
    lines = [head(results), *rows(results)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([text[0], rule, *text[1:]])
