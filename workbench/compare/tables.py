"""The comparison as a table, for the terminal and for Markdown."""

from collections.abc import Callable, Sequence
from statistics import fmean

from workbench.compare.curve import curve_text
from workbench.compare.entries import disturbance, entries
from workbench.console import bytes_text, count_text, duration_text
from workbench.results import Results, RunRecord, Score

COST_COLUMNS = ("trained", "seconds", "tokens/s", "s/1,000 texts", "memory", "adapter", "ships as")
# Behind the columns of scores where settings were chosen by trials.
TUNING = "tuning (s)"


def score_columns(results: Results) -> dict[str, str]:
    """Labels of scores -> heads: the primary metric on every split, others on the first they apply to."""
    primary, splits = results.headline, results.evaluated_splits
    scored = {label for run in results.runs for label in run.metrics}
    found: dict[str, str] = {}
    for name in sorted(results.metrics, key=lambda name: name != primary):
        title = results.metrics[name].title
        labels = {split: f"{name}[{split}]" for split in splits if f"{name}[{split}]" in scored}
        first = next(iter(labels), splits[0])
        if name == primary:
            found |= {label: f"{title} {split}" for split, label in labels.items()}
        elif labels:
            found[labels[first]] = title if first == splits[0] else f"{title} {first}"
    return found


def head(results: Results) -> list[str]:
    """Heads of all columns."""
    return ["method", *score_columns(results).values(), *([TUNING] if results.tuning else []), *COST_COLUMNS]


def rows(results: Results, written: Callable[[str], str] = str) -> list[list[str]]:
    """A row of cells for each entry; see `table`."""
    names = list(score_columns(results))
    found = [
        cells(run, names, _label(results, run), written, "*" if disturbance(results, run) else "")
        for run in entries(results)
    ]
    if results.tuning:
        seconds = {record.entry: f"{record.seconds:.0f}" for record in results.tuning}
        for run, row in zip(entries(results), found, strict=True):
            row.insert(1 + len(names), seconds.get(run.method, "-"))
    return found


def _label(results: Results, run: RunRecord) -> str:
    """The name of an entry, and how many of its seeds failed, if some did."""
    of_entry = [one for one in results.runs if one.method == run.method]
    done = sum(one.done for one in of_entry)
    return f"{run.method} ({done} of {len(of_entry)} seeds)" if 0 < done < len(of_entry) else run.method


def changes_table(results: Results) -> list[list[str]]:
    """What else is another in each entry, a row each with the head before them; empty where nothing is known.

    Forgetting is what the loss on a general text rose by.
    """
    base = results.checkpoint.general_loss
    found = []
    for run in entries(results):
        of_entry = [one.changes for one in results.runs if one.method == run.method and one.changes is not None]
        if not of_entry:
            continue
        losses = [one.general_loss for one in of_entry if one.general_loss is not None]
        forgot = f"{fmean(losses) - base:+.3f}" if losses and base is not None else "-"
        areas = [one.membership for one in of_entry if one.membership is not None]
        area = score_text(_mean(areas)) if areas else "-"
        named = sum(one.named for one in of_entry)
        verbatim = f"{sum(one.verbatim for one in of_entry) / named:.0%} of {of_entry[0].named}" if named else "-"
        found.append([run.method, forgot, area, verbatim])
    return [["method", "forgetting (nats)", "membership AUC", "known by heart"], *found] if found else []


def _mean(scores: Sequence[Score]) -> Score:
    """Of several seeds; the widest interval of them, since they share their examples."""
    value = fmean(score.value for score in scores)
    low, high = max(score.value - score.low for score in scores), max(score.high - score.value for score in scores)
    return Score(value=value, low=value - low, high=value + high)


CHANGES_TEXT = (
    "Forgetting: by how much the loss on a fixed general text in English and Chinese rose, in nats per token. "
    "Membership AUC: how often an example that was trained on has a lower loss than one that was not; 0.5 tells "
    "nothing, and what the untuned checkpoint has is no doing of the training. Known by heart: figures and names in "
    "the answers of training that the model would write itself, though they do not stand in the prompt."
)


def curves_text(results: Results) -> str:
    """What the curves over the training rows say, as lines of a list."""
    title = results.metrics[results.headline].title if results.curves else ""
    return "".join(f"- {curve_text(curve, title)}\n" for curve in results.curves)


def time_text(results: Results) -> str:
    """Where the time of a whole run went, in a sentence."""
    seconds = results.seconds
    if seconds is None:
        return ""
    parts = f"tuning {seconds.tuning / 60:.1f}, " if seconds.tuning else ""
    parts += f"training {seconds.training / 60:.1f}, evaluation {seconds.evaluation / 60:.1f}, export "
    parts += f"{seconds.export / 60:.1f}, everything else {seconds.other / 60:.1f}"
    return f"The run took {seconds.total / 60:.1f} minutes: {parts}."


def budget_text(results: Results) -> str:
    """What the run was given of time and what was cut to keep to it, in a few sentences; empty where it isn't known."""
    budget = results.budget
    if budget is None:
        return ""
    expected = f"Expected were {budget.seconds / 60:.1f} minutes."
    if budget.minutes is None:
        return expected
    if not budget.was_cut:
        return f"The whole job fits into the {budget.minutes:g} minutes that it was given. {expected}"
    scored = ", ".join(f"{n} of {budget.evaluated_of[split]} of {split}" for split, n in budget.evaluated.items())
    return (
        f"Cut to end within {budget.minutes:g} minutes: every method made {budget.steps} of the recipe's "
        f"{budget.full_steps} steps (about {count_text(budget.train_tokens)} tokens, the same for each), and scored "
        f"are {scored} examples. {expected}"
    )


def forecasts(results: Results) -> list[tuple[str, list[str]]]:
    """What was expected of each run and what it took: its name, and a cell for training, evaluation and export."""
    return [
        (
            f"{run.method} (seed {run.seed})" if results.several_seeds else run.method,
            [
                f"{duration_text(taken)} of {duration_text(expected)}"
                for taken, expected in (
                    (run.train_seconds, run.forecast.training),
                    (run.evaluation_seconds, run.forecast.evaluation),
                    (run.export_seconds, run.forecast.export),
                )
            ],
        )
        for run in results.runs
        if run.done and run.forecast is not None
    ]


def cells(
    run: RunRecord, names: Sequence[str], label: str, written: Callable[[str], str] = str, mark: str = ""
) -> list[str]:
    """One row: scores with their intervals, then costs; see `table`.

    Args:
        mark: behind times that are not to be compared.
    """
    if not run.done:
        reason = " ".join(str(run.error).replace("|", "/").split())
        return [label, f"failed: {written(reason)}", *[""] * (len(names) - 1 + len(COST_COLUMNS))]
    scores = [score_text(run.metrics[name]) if name in run.metrics else "-" for name in names]
    speed = run.train_tokens_per_second
    ships = "plain checkpoint" if run.export.merged else "adapter" if run.adapter_bytes else "-"
    return [
        label,
        *scores,
        count_text(run.trainable_parameters),
        f"{run.train_seconds:.0f}{mark}{', resumed' if run.resumed else ''}",
        f"{speed:.0f}{mark}" if speed else "-",
        f"{seconds_text(run.seconds_per_1000_texts)}{mark}",
        bytes_text(run.peak_memory_bytes),
        bytes_text(run.adapter_bytes) if run.adapter_bytes else "-",
        ships,
    ]


def seconds_text(seconds: float | None) -> str:
    """Seconds in two digits or more, where they are known."""
    if seconds is None:
        return "-"
    return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.2g}"


def difference_text(results: Results, value: float) -> str:
    """A difference of two scores with its sign; one between 0 and 1, such as AUC, differs in its third digit."""
    return f"{value:+.3f}" if results.metrics[results.headline].best == 1 else f"{value:+.1f}"


def score_text(score: Score) -> str:
    """A value with its interval, in three or four digits."""
    digits = 2 if abs(score.value) < 10 else 1
    return f"{score.value:.{digits}f} [{score.low:.{digits}f}, {score.high:.{digits}f}]"


def table(results: Results, written: Callable[[str], str] = str) -> str:
    """The comparison in Markdown, its columns aligned so that a terminal shows it as well.

    Args:
        written: what is done to texts of others, such as `markdown` for a file.
    """
    return aligned([head(results), *rows(results, written)])


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a table in Markdown, the first its head."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([text[0], rule, *text[1:]])
