"""The report: `report.html`, one file that needs nothing else, and `report.md` for a pull request."""

from collections.abc import Mapping, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from workbench import files
from workbench.compare import charts
from workbench.compare.answers import questions
from workbench.compare.curve import curve_text
from workbench.compare.data_text import data_rows, near_text
from workbench.compare.entries import disturbance, disturbed_text, entries
from workbench.compare.language import joined, language, say, written_in
from workbench.compare.matrix import matrix
from workbench.compare.report_text import export_text, interval_text, tuning_rows, usage_table
from workbench.compare.tables import (
    aligned,
    budget_text,
    changes_table,
    changes_text,
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
from workbench.evaluation import Metric, Prediction
from workbench.evaluation.metrics.choice import confusion
from workbench.results import Results, RunRecord

# More classes than these make no readable confusion matrix.
CLASSES_SHOWN = 20


def write_report(
    folder: Path,
    results: Results,
    answers: Mapping[str, Sequence[Prediction]],
    description: str,
    metrics: Sequence[Metric] = (),
    language: str = "en",
) -> None:
    """Write both reports into `folder`.

    Args:
        results: what `results.json` holds.
        answers: method -> answers of its first seed.
        description: what the recipe says of itself.
        metrics: by which single answers are scored.
        language: of `workbench.compare.language.LANGUAGES`; what recipes and libraries say stays as it is.
    """
    with written_in(language):
        files.write_text(folder / "report.html", _page(results, answers, description, metrics))
        files.write_text(folder / "report.md", _markdown(results, description))


def _page(
    results: Results, answers: Mapping[str, Sequence[Prediction]], description: str, metrics: Sequence[Metric]
) -> str:
    done = [run for run in results.runs if run.done]
    together = [run for run in entries(results) if run.done]
    title = results.metrics[results.headline].title
    return str(
        template("workbench.compare", "report.html.jinja").render(
            say=say,
            language=language(),
            results=results,
            description=description,
            conclusion=conclude(results),
            head=head(results),
            rows=rows(results),
            time=time_text(results),
            budget=budget_text(results),
            forecasts=forecasts(results),
            done=together,
            intervals=interval_text(results),
            disturbed=disturbed_text(results),
            usage=usage_table(results),
            changes=changes_table(results),
            changes_text=changes_text(),
            curve_texts=[curve_text(curve, title) for curve in results.curves],
            data_rows=data_rows(results.data),
            near=[near_text(near) for near in results.data.near],
            tuning=tuning_rows(results.tuning),
            each_seed=_each_seed(results),
            seeds_compared=any(pair.seeds > 1 for pair in results.comparisons),
            matrix=matrix(results),
            exports=[(run.method, run.seed, export_text(run)) for run in done],
            details=_details(together),
            pictures=_pictures(results, together, done),
            confusions=_confusions(answers, results.compared_split),
            questions=questions(answers, metrics),
            titles={metric.name: metric.title for metric in metrics},
            signatures={name: text for run in reversed(done) for name, text in run.signatures.items()},
            would_tell=would_tell,
            difference_text=partial(difference_text, results),
            several=results.several_seeds,
        )
    )


def _pictures(results: Results, together: Sequence[RunRecord], done: Sequence[RunRecord]) -> dict[str, str]:
    """The page's charts by name; empty where there is nothing to show."""
    primary, compared = results.metrics[results.headline], results.compared_label
    methods = list(dict.fromkeys(run.method for run in results.runs))
    title = say("{metric} on {split}", metric=primary.title, split=results.compared_split)
    scored = [run for run in together if compared in run.metrics]
    found = dict.fromkeys(("quality", "learning", "data", "tuning"), "")
    if scored:
        disturbed = {run.method for run in scored if disturbance(results, run)}
        found["quality"] = charts.quality_against_costs(
            scored, methods, compared, title, primary.higher_is_better, disturbed
        )
    if any(run.curve for run in done):
        found["learning"] = charts.learning_curves(done, methods)
    if results.curves:
        found["data"] = charts.data_curves(results.curves, methods, title)
    if results.tuning:
        found["tuning"] = charts.tuning_trials(results.tuning, methods)
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


def _markdown(results: Results, description: str) -> str:
    """The page for a pull request: the verdict, the table, what else is to be known."""
    base = results.checkpoint.name.replace("`", "'")
    about = [interval_text(results), say("Checkpoint: {name}.", name=f"`{base}`")]
    about += [disturbed_text(results), time_text(results), budget_text(results)]
    title = results.metrics[results.headline].title if results.curves else ""
    changes = changes_table(results)
    remarks = [(split, remark) for split, info in results.data.splits.items() for remark in info.remarks]
    exports = [
        say("**{method}**, seed {seed}: {text}", method=run.method, seed=run.seed, text=markdown(export_text(run)))
        for run in results.runs
        if run.done
    ]
    failed = [
        say("**{method}** failed: {reason}", method=run.method, reason=markdown(str(run.error)))
        for run in results.runs
        if not run.done
    ]
    parts = [
        f"# {markdown(results.recipe)}",
        description,
        conclude(results),
        table(results, markdown),
        joined(about),
        *_part(say("How many examples are needed"), [curve_text(curve, title) for curve in results.curves]),
        *([f"## {say('What else changed')}", aligned(changes), changes_text()] if changes else []),
        *_part("", [f"{split}: {markdown(remark)}" for split, remark in remarks]),
        *_part(say("What ships"), [*exports, *failed]),
    ]
    return "\n\n".join(parts) + "\n"


def _part(title: str, lines: Sequence[str]) -> list[str]:
    """A list with a head, if there is anything in it."""
    if not lines:
        return []
    return [*([f"## {title}"] if title else []), "\n".join(f"- {line}" for line in lines)]


def template(package: str, name: str) -> Any:
    """A page's template, which stands in `package`; what it is given is escaped, unless it is marked as `svg`."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    source = resources.files(package).joinpath(name).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["svg"] = Markup
    return environment.from_string(source)
