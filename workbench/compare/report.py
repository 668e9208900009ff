"""The report: `report.html`, one file that needs nothing else, and `report.md` for a pull request."""

from collections.abc import Mapping, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from workbench import files
from workbench.compare import charts
from workbench.compare.curve import curve_text
from workbench.compare.data_text import data_rows, near_text
from workbench.compare.entries import disturbance, disturbed_text, entries
from workbench.compare.tables import (
    CHANGES_TEXT,
    aligned,
    budget_text,
    changes_table,
    curves_text,
    difference_text,
    forecasts,
    head,
    rows,
    score_text,
    table,
    time_text,
)
from workbench.compare.verdict import conclude, would_tell
from workbench.console import markdown
from workbench.evaluation import Prediction
from workbench.evaluation.metrics.choice import confusion
from workbench.results import Results, RunRecord, TuningRecord

QUESTIONS = 20
# More classes than these make no readable confusion matrix.
CLASSES_SHOWN = 20


def write_report(folder: Path, results: Results, answers: Mapping[str, Sequence[Prediction]], description: str) -> None:
    """Write both reports into `folder`.

    Args:
        results: what `results.json` holds.
        answers: method -> answers of its first seed.
        description: what the recipe says of itself.
    """
    done = [run for run in results.runs if run.done]
    split, compared = results.compared_split, results.compared_label
    primary = results.metrics[results.headline]
    together = [run for run in entries(results) if run.done]
    scored = [run for run in together if compared in run.metrics]
    conclusion = conclude(results)
    page = template("workbench.compare", "report.html.jinja").render(
        results=results,
        description=description,
        conclusion=conclusion,
        head=head(results),
        rows=rows(results),
        time=time_text(results),
        budget=budget_text(results),
        forecasts=forecasts(results),
        done=together,
        intervals=interval_text(results),
        disturbed=disturbed_text(results),
        data_rows=data_rows(results.data),
        near=[near_text(near) for near in results.data.near],
        curve_texts=[curve_text(curve, primary.title) for curve in results.curves],
        data_curves=charts.data_curves(results.curves, f"{primary.title} on {split}") if results.curves else "",
        tuning=tuning_rows(results.tuning),
        trials=charts.tuning_trials(results.tuning) if results.tuning else "",
        usage=usage_table(results),
        changes=changes_table(results),
        changes_text=CHANGES_TEXT,
        each_seed=_each_seed(results),
        seeds_compared=any(pair.seeds > 1 for pair in results.comparisons),
        exports=[(run.method, run.seed, export_text(run)) for run in done],
        details=_details(together),
        quality=charts.quality_against_costs(
            scored,
            compared,
            f"{primary.title} on {split}",
            primary.higher_is_better,
            {run.method for run in scored if disturbance(results, run)},
        )
        if scored
        else "",
        confusions=_confusions(answers, split),
        curves=charts.learning_curves(done) if any(run.curve for run in done) else "",
        questions=_questions(answers, split),
        signatures={name: text for run in reversed(done) for name, text in run.signatures.items()},
        would_tell=would_tell,
        difference_text=partial(difference_text, results),
        several=results.several_seeds,
    )
    files.write_text(folder / "report.html", page)
    files.write_text(folder / "report.md", _markdown(results, conclusion, description))


def export_text(run: RunRecord) -> str:
    """What can be shipped of a run, in a few sentences."""
    warning = f"Warning: {run.warning}. " if run.warning else ""
    return warning + _shipped(run)


def _shipped(run: RunRecord) -> str:
    export = run.export
    if not export.merged:
        return str(export.reason)
    said = "classes" if run.head else "greedy answers"
    text = (
        f"merged/ is a plain checkpoint: reloaded in a fresh process, its logits differ from the trained model's by "
        f"at most {export.max_abs_logit_difference:.2g} (largest logit {export.max_abs_logit:.3g}; the base "
        f"differs by {export.base_logit_difference:.3g}), and its {said} are the same on "
        f"{export.greedy_agreement:.0%} of {export.prompts} held-out prompts."
    )
    if export.base:
        text += (
            f" It was {export.base}: validation loss {run.validation_loss_as_trained:.3f} as trained, "
            f"{run.validation_loss_as_shipped:.3f} as shipped; the scores are of what is shipped."
        )
    return text


def interval_text(results: Results) -> str:
    """What the intervals of scores cover, in a sentence or two."""
    if results.over_seeds and results.seeds > 1:
        return (
            f"Means of {results.seeds} seeds with 95 % intervals, which cover the choice of test examples (bootstrap) "
            "and of seeds; costs are means, too."
        )
    if all(run.fixed for run in results.runs):
        return "Scores with 95 % bootstrap intervals over the test examples."
    return (
        "Scores with 95 % bootstrap intervals over the test examples. Seeds are not in them: each method was trained "
        "with one (--seeds 3 puts them in)."
    )


def usage_table(results: Results) -> list[list[str]]:
    """What every trial took of the machine and others meanwhile: rows of cells, of those that noted it."""
    cores = results.environment.get("cores")
    found = []
    for run in results.runs:
        usage = [run.training_usage, run.evaluation_usage]
        if not any(usage):
            continue
        name = f"{run.method} (seed {run.seed})" if results.several_seeds else run.method
        cells = [f"{one.processor_seconds:.0f} s, {one.others:.1f} of {cores} cores" if one else "-" for one in usage]
        joules = [one.joules for one in usage if one and one.joules is not None]
        energy = f"{sum(joules) / 3600:.2f} Wh" if joules else "-"
        product = " / ".join(f"{1000 * seconds:.1f}" for seconds in run.product_seconds) or "-"
        found.append([name, *cells, product, energy, disturbance(results, run) or "nothing"])
    return found


def tuning_rows(records: Sequence[TuningRecord]) -> list[list[str]]:
    """Every trial of every entry: entry, settings, validation loss, seconds, what came of it."""
    found = []
    for record in records:
        ranges = {**record.ranges, **(record.widened or {})}
        for trial in record.trials:
            settings = ", ".join(f"{name} {value:g}" for name, value in trial.settings.items())
            loss = "-" if trial.validation_loss is None else f"{trial.validation_loss:.4f}"
            said = {"done": "", "stopped": "stopped early", "failed": f"failed: {trial.error}"}[trial.status]
            if trial == record.chosen:
                beyond = "; ".join(
                    f"at the edge of {name}, {ranges[name][0]:g} to {ranges[name][1]:g}" for name in record.at_edge
                )
                said = f"chosen; {beyond}" if beyond else "chosen"
            found.append([record.entry, settings, loss, f"{trial.seconds:.0f}", said])
    return found


def _each_seed(results: Results) -> list[tuple[str, str, list[str]]]:
    """Of every entry with several seeds its compared score: name, standard deviation and the score of each seed."""
    label = results.compared_label
    found = []
    for entry in entries(results):
        of_seeds = [run for run in results.runs if run.method == entry.method and label in run.metrics]
        score = entry.metrics.get(label)
        if len(of_seeds) > 1 and score is not None and score.sd is not None:
            each = [f"{run.seed}: {score_text(run.metrics[label])}" for run in of_seeds]
            found.append((entry.method, f"{score.sd:.2g}", each))
    return found


def _details(done: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Every score of every run: name of the score, and a cell for each run."""
    names = list(dict.fromkeys(name for run in done for name in run.metrics))
    return [(name, [score_text(run.metrics[name]) if name in run.metrics else "-" for run in done]) for name in names]


def _confusions(answers: Mapping[str, Sequence[Prediction]], split: str) -> list[tuple[str, str]]:
    """Method -> picture of what it took for what, where it chose among a few classes."""
    found = []
    for method, given in answers.items():
        chosen = [answer for answer in given if answer.split == split and answer.choices and answer.chosen is None]
        for names in dict.fromkeys(tuple(answer.choices) for answer in chosen if len(answer.choices) <= CLASSES_SHOWN):
            some = [answer for answer in chosen if tuple(answer.choices) == names]
            found.append((method, charts.confusion_matrix(confusion(some), names, method)))
    return found


def _questions(answers: Mapping[str, Sequence[Prediction]], split: str) -> list[dict[str, Any]]:
    """Twenty examples of the split, evenly spread over it, with every method's answer."""
    if not answers:
        return []
    by_id = {method: {a.id: a for a in given if a.split == split} for method, given in answers.items()}
    ids = [a.id for a in next(iter(answers.values())) if a.split == split]
    step = max(1, len(ids) // QUESTIONS)
    first = next(iter(by_id.values()))
    return [
        {
            "id": key,
            "prompt": first[key].prompt,
            "reference": first[key].reference,
            "answers": [(method, given[key].prediction) for method, given in by_id.items()],
        }
        for key in ids[::step][:QUESTIONS]
    ]


def _remarks(results: Results) -> str:
    """What else is to be known of the splits that are scored, as lines of a list."""
    said = [(split, remark) for split, info in results.data.splits.items() for remark in info.remarks]
    lines = "".join(f"- {split}: {markdown(remark)}\n" for split, remark in said)
    return f"{lines}\n" if lines else ""


def _examples_needed(results: Results) -> str:
    lines = curves_text(results)
    return f"## How many examples are needed\n\n{lines}\n" if lines else ""


def _changes(results: Results) -> str:
    """What else is another in each entry, as a part of a page."""
    lines = changes_table(results)
    return f"## What else changed\n\n{aligned(lines)}\n\n{CHANGES_TEXT}\n\n" if lines else ""


def _markdown(results: Results, conclusion: str, description: str) -> str:
    done = [run for run in results.runs if run.done]
    exports = "\n".join(f"- **{run.method}**, seed {run.seed}: {markdown(export_text(run))}" for run in done)
    times = " ".join(filter(None, (disturbed_text(results), time_text(results), budget_text(results))))
    failed = "".join(f"- **{run.method}** failed: {markdown(str(run.error))}\n" for run in results.runs if not run.done)
    base = results.checkpoint.name.replace("`", "'")
    return f"""# {markdown(results.recipe)}

{description}

{conclusion}

{table(results, markdown)}

{interval_text(results)} Checkpoint: `{base}`. {times}

{_examples_needed(results)}{_changes(results)}{_remarks(results)}## What ships

{exports}
{failed}"""


def template(package: str, name: str) -> Any:
    """A page's template, which stands in `package`; what it is given is escaped, unless it is marked as `svg`."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    source = resources.files(package).joinpath(name).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["svg"] = Markup
    return environment.from_string(source)
