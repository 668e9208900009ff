"""The comparison as a table, for the terminal and for Markdown."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from workbench.compare.entries import disturbance, entries
from workbench.compare.language import joined, say
from workbench.console import bytes_text, count_text, duration_text
from workbench.results import Results, RunRecord, Score


@dataclass(frozen=True)
class Column:
    """A column of the table: its head, and what stands there of an entry that was carried to its end."""

    head: str
    cell: Callable[[RunRecord], str]


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


def columns(results: Results) -> list[Column]:
    """Scores with their intervals, then costs; times that are not to be compared have a mark."""
    scores = [Column(title, partial(_score_cell, label)) for label, title in score_columns(results).items()]
    return [*scores, *_cost_columns(results), *_money_columns(results), Column(say("ships as"), _ships)]


def _score_cell(label: str, run: RunRecord) -> str:
    return score_text(run.metrics[label]) if label in run.metrics else "-"


def _cost_columns(results: Results) -> list[Column]:
    def mark(run: RunRecord) -> str:
        return "*" if disturbance(results, run) else ""

    def trained(run: RunRecord) -> str:
        seconds = f"{run.train_seconds:.0f}{mark(run)}"
        return say("{seconds}, resumed", seconds=seconds) if run.resumed else seconds

    def speed(run: RunRecord) -> str:
        return f"{run.train_tokens_per_second:.0f}{mark(run)}" if run.train_tokens_per_second else "-"

    seconds = {record.entry: f"{record.seconds:.0f}" for record in results.tuning}
    tuning = [Column(say("tuning (s)"), lambda run: seconds.get(run.method, "-"))] if seconds else []
    return [
        *tuning,
        Column(say("trained"), lambda run: count_text(run.trainable_parameters)),
        Column(say("seconds"), trained),
        Column(say("tokens/s"), speed),
        Column(say("s/1,000 texts"), lambda run: f"{seconds_text(run.seconds_as_shipped)}{mark(run)}"),
        Column(say("memory"), lambda run: bytes_text(run.peak_memory_bytes)),
        Column(say("adapter"), lambda run: bytes_text(run.adapter_bytes) if run.adapter_bytes else "-"),
    ]


def _money_columns(results: Results) -> list[Column]:
    """What training, its trials included, and 1,000 answers cost, where the price of an hour was stated."""
    price = results.price
    if price is None:
        return []
    tuning = {record.entry: record.seconds for record in results.tuning}

    def trained(run: RunRecord) -> str:
        return money_text(price.of_seconds(run.train_seconds + tuning.get(run.method, 0.0)))

    def answers(run: RunRecord) -> str:
        seconds = run.seconds_as_shipped
        return "-" if seconds is None else money_text(price.of_seconds(seconds))

    unit = f" ({price.currency})" if price.currency else ""
    return [Column(say("training costs") + unit, trained), Column(say("1,000 texts cost") + unit, answers)]


def _ships(run: RunRecord) -> str:
    if run.export.merged:
        return say("plain checkpoint")
    return say("adapter") if run.adapter_bytes else "-"


def head(results: Results) -> list[str]:
    """Heads of all columns."""
    return [say("method"), *(column.head for column in columns(results))]


def rows(results: Results, written: Callable[[str], str] = str) -> list[list[str]]:
    """A row of cells for each entry; see `table`."""
    found, all_columns = [], columns(results)
    for run in entries(results):
        cells = [column.cell(run) for column in all_columns] if run.done else []
        if not run.done:
            reason = " ".join(str(run.error).replace("|", "/").split())
            cells = [say("failed: {reason}", reason=written(reason)), *[""] * (len(all_columns) - 1)]
        found.append([_label(results, run), *cells])
    return found


def _label(results: Results, run: RunRecord) -> str:
    """The name of an entry, and how many of its seeds failed, if some did."""
    of_entry = [one for one in results.runs if one.method == run.method]
    done = sum(one.done for one in of_entry)
    if 0 < done < len(of_entry):
        return say("{method} ({done} of {seeds} seeds)", method=run.method, done=done, seeds=len(of_entry))
    return run.method


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
        share = sum(one.verbatim for one in of_entry) / named if named else 0.0
        verbatim = say("{share:.0%} of {named}", share=share, named=of_entry[0].named) if named else "-"
        found.append([run.method, forgot, area, verbatim])
    heads = [say("method"), say("forgetting (nats)"), say("membership AUC"), say("known by heart")]
    return [heads, *found] if found else []


def _mean(scores: Sequence[Score]) -> Score:
    """Of several seeds; the widest interval of them, since they share their examples."""
    value = fmean(score.value for score in scores)
    low, high = max(score.value - score.low for score in scores), max(score.high - score.value for score in scores)
    return Score(value=value, low=value - low, high=value + high)


def changes_text() -> str:
    """What the columns of `changes_table` mean."""
    return joined(
        [
            say(
                "Forgetting: by how much the loss on a fixed general text in English and Chinese rose, in nats per "
                "token."
            ),
            say(
                "Membership AUC: how often an example that was trained on has a lower loss than one that was not; 0.5 "
                "tells nothing, and what the untuned checkpoint has is no doing of the training."
            ),
            say(
                "Known by heart: figures and names in the answers of training that the model would write itself, "
                "though they do not stand in the prompt."
            ),
        ]
    )


def time_text(results: Results) -> str:
    """Where the time of a whole run went, in a sentence."""
    seconds = results.seconds
    if seconds is None:
        return ""
    spent = {
        say("tuning"): seconds.tuning,
        say("training"): seconds.training,
        say("evaluation"): seconds.evaluation,
        say("export"): seconds.export,
        say("parts of the data"): seconds.curve,
        say("everything else"): seconds.other,
    }
    parts = say(", ").join(f"{name} {value / 60:.1f}" for name, value in spent.items() if value)
    said = {"total": seconds.total / 60, "parts": parts}
    if seconds.beside:
        return say("The run took {total:.1f} minutes. Beside each other, in minutes: {parts}.", **said)
    return say("The run took {total:.1f} minutes: {parts}.", **said)


def budget_text(results: Results) -> str:
    """What the run was given of time and what was cut to keep to it, in a few sentences; empty where it isn't known."""
    budget = results.budget
    if budget is None:
        return ""
    expected = say("Expected were {minutes:.1f} minutes.", minutes=budget.seconds / 60)
    if results.seconds and results.seconds.beside:
        expected = say("One after another, {minutes:.1f} minutes were expected.", minutes=budget.seconds / 60)
    if budget.minutes is None:
        return expected
    if not budget.was_cut:
        fits = say("The whole job fits into the {minutes:g} minutes that it was given.", minutes=budget.minutes)
        return joined([fits, expected])
    scored = [
        say("{count} of {all} of {split}", count=count, all=budget.evaluated_of[split], split=split)
        for split, count in budget.evaluated.items()
    ]
    was_cut = say(
        "Cut to end within {minutes:g} minutes: every method made {steps} of the recipe's {full_steps} steps (about "
        "{tokens} tokens, the same for each), and scored are {scored} examples.",
        minutes=budget.minutes,
        steps=budget.steps,
        full_steps=budget.full_steps,
        tokens=count_text(budget.train_tokens),
        scored=say(", ").join(scored),
    )
    return joined([was_cut, expected])


def forecasts(results: Results) -> list[tuple[str, list[str]]]:
    """What was expected of each run and what it took: its name, and a cell for training, evaluation and export."""
    return [
        (
            name_of(run, results.several_seeds),
            [
                say("{taken} of {expected}", taken=duration_text(taken), expected=duration_text(expected))
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


def name_of(run: RunRecord, several: bool) -> str:
    """What an entry is called beside others, with its seed where there are several."""
    return say("{method} (seed {seed})", method=run.method, seed=run.seed) if several else run.method


def seconds_text(seconds: float | None) -> str:
    """Seconds in two digits or more, where they are known."""
    if seconds is None:
        return "-"
    return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.2g}"


def money_text(amount: float) -> str:
    """An amount of money in three digits, and no less than cents where it is large."""
    return f"{amount:.2f}" if amount >= 1 else f"{amount:.3g}"


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
