"""Finished runs beside each other: paired over the examples that all of them answered, or refused with the reason."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from workbench.compare import compare_methods, over_seeds
from workbench.errors import UserError, unknown
from workbench.evaluation import Metric, Prediction, find_metrics, known_metrics, read_predictions, score_all
from workbench.results import CheckpointInfo, CurveRecord, Results, RunRecord
from workbench.run.folder import RunFolder
from workbench.run.manifest import require_unchanged

# Of the environment, what decides how long something takes.
MACHINE = ("processor", "cores", "device", "threads", "cpu_capability")


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """Runs beside each other.

    Attributes:
        results: as if one run had carried out all of it; entries are called `<run>/<entry>` where there are several.
        answers: entry -> answers of its first seed.
        metrics: by which all of it is scored.
        remarks: what the runs differ in besides their methods, in sentences.
    """

    results: Results
    answers: Mapping[str, Sequence[Prediction]]
    remarks: Sequence[str]
    metrics: Sequence[Metric]


Answers = dict[str, dict[int, list[Prediction]]]


@dataclass(frozen=True)
class _Read:
    """A run as it stands beside others: its records, and entry -> seed -> answers, both by the names used here."""

    folder: RunFolder
    results: Results
    answers: Answers


def side_by_side(paths: Sequence[str | Path], *, metric: str | None = None, split: str | None = None) -> SideBySide:
    """Set runs beside each other.

    Args:
        paths: output folders.
        metric: by which they are compared; None takes their primary metric.
        split: on which; None takes the first that has a score.

    Raises:
        UserError: no runs, ones without results, ones that were changed since, or that can't be compared: of other
            examples, another metric, or one that is computed otherwise. All that is wrong is in the message.
    """
    folders = [
        RunFolder.open(Path(path), its_code=False) for path in {Path(path).resolve(): path for path in paths}.values()
    ]
    found = [folder.read_results() for folder in folders]
    name = metric or found[0].headline
    if name not in found[0].metrics:
        raise unknown("metric of these runs", name, found[0].metrics)
    if split is not None and split not in found[0].evaluated_splits:
        raise unknown("evaluated split", split, found[0].evaluated_splits)
    on = split or replace(found[0], headline=name).compared_split
    label = f"{name}[{on}]"
    _require_comparable(folders, found, label, asked=metric is not None)
    names = _names([folder.path for folder in folders])
    read = [_read(folder, one, label, name) for folder, one, name in zip(folders, found, names, strict=True)]
    answers, left_out = _shared(read, on)
    first = {entry: next(iter(of_seeds.values())) for entry, of_seeds in answers.items()}
    metrics = _metrics(folders[0], found, name)
    by_name = {one.name: one for one in metrics}
    if not any(by_name[name].applies(answer) for answer in next(iter(first.values()))):
        raise _not_comparable([f"{name} applies to none of the examples of {on} that all runs scored"])
    runs = [run for one in read for run in one.results.runs]
    fixed = {run.method for run in runs if run.fixed or _no_seed_changes(run)}
    scores = {one.method: one for one in over_seeds(metrics, answers, fixed, groups=())}
    runs = [replace(run, metrics=score_all(metrics, answers[run.method][run.seed], ())) for run in runs]
    if not _one_machine(read):  # their products tell nothing of each other
        runs = [replace(run, product_seconds=()) for run in runs]
    several = any(len(of_seeds) > 1 for of_seeds in answers.values())
    compared = {entry: list(of_seeds.values()) for entry, of_seeds in answers.items()}
    results = replace(
        found[0],
        headline=name,
        evaluated_splits=[on],
        metrics={one: found[0].metrics[one] for one in by_name},
        runs=runs,
        over_seeds=list(scores.values()) if several else (),
        comparisons=compare_methods(by_name[name], on, compared, fixed) if len(compared) > 1 else (),
        checkpoint=_checkpoint(read),
        tuning=[record for one in read for record in one.results.tuning],
        curves=[curve for one in read for curve in one.results.curves if curve.label == label],
        seconds=None,
        budget=None,
    )
    return SideBySide(results=results, answers=first, remarks=[*left_out, *_remarks(read)], metrics=metrics)


def _require_comparable(folders: Sequence[RunFolder], found: Sequence[Results], label: str, asked: bool) -> None:
    """See that runs can stand beside the first of them.

    Raises:
        UserError: they can't; all that is wrong is in the message.
    """
    problems = [
        f"{folder.path}: {problem}"
        for folder, results in zip(folders, found, strict=True)
        for problem in _problems(results, found[0], label, asked=asked)
    ]
    if problems:
        raise _not_comparable(problems)


def _checkpoint(read: Sequence[_Read]) -> CheckpointInfo:
    """The base of the first run; what it is on a general text only where all have the same."""
    first = read[0].results.checkpoint
    same = all(one.results.checkpoint.base_sha256 == first.base_sha256 for one in read)
    return first if same else replace(first, general_loss=None)


def split_of(label: str) -> str:
    """Of the label of a score, such as `bleu[test]`."""
    return label.partition("[")[2].removesuffix("]")


def _problems(results: Results, first: Results, label: str, asked: bool) -> list[str]:
    """Why a run can't stand beside the first."""
    split = split_of(label)
    if not asked and results.headline != first.headline:
        return [f"its primary metric is {results.headline}, not {first.headline}: say which, with --metric"]
    if split not in results.evaluated_splits:
        return [f"it has no evaluated split {split!r}; it has {', '.join(results.evaluated_splits)}"]
    if results.data.splits[split].sha256 != first.data.splits[split].sha256:
        return [f"it was scored on another {split} split: its rows are not those of the first run"]
    scored = [run for run in results.runs if run.done and label in run.metrics]
    if not scored:
        return [f"no entry has a score {label}"]
    name = label.partition("[")[0]
    of_first = {run.signatures.get(name) for run in first.runs if run.done and label in run.metrics}
    if other := sorted({str(run.signatures.get(name)) for run in scored if run.signatures.get(name) not in of_first}):
        return [f"{name} was computed otherwise: {'; '.join(other)}, not {'; '.join(map(str, of_first))}"]
    return []


def _names(paths: Sequence[Path]) -> list[str]:
    """What stands in front of the entries of each run: its folder's name, or the whole path where two have one name."""
    if len(paths) == 1:
        return [""]
    ends = [path.resolve().name for path in paths]
    return [f"{end if ends.count(end) == 1 else path}/" for end, path in zip(ends, paths, strict=True)]


def _read(folder: RunFolder, results: Results, label: str, name: str) -> _Read:
    """What a run has of a score, and what its entries answered of its split.

    Args:
        label: of the score, such as `bleu[test]`.
        name: of the run, in front of those of its entries.

    Raises:
        UserError: a file was changed since.
    """
    split = split_of(label)
    runs, answers = [], Answers()
    for run in results.runs:
        if run.done and label in run.metrics:
            trial = folder.trial(run.method, run.seed)
            require_unchanged(trial, run)
            entry = name + run.method
            runs.append(replace(run, method=entry))
            answers.setdefault(entry, {})[run.seed] = [p for p in read_predictions(trial.path) if p.split == split]
    tuning = [replace(record, entry=name + record.entry) for record in results.tuning if name + record.entry in answers]
    return _Read(folder, replace(results, runs=runs, tuning=tuning, curves=_curves(results, name)), answers)


def _curves(results: Results, name: str) -> list[CurveRecord]:
    """The curves of a run, with the names that its entries have here."""
    return [
        replace(
            curve,
            entry=name + curve.entry,
            crossings=[replace(one, other=name + one.other) for one in curve.crossings],
        )
        for curve in results.curves
    ]


def _shared(read: Sequence[_Read], split: str) -> tuple[Answers, list[str]]:
    """The answers to the examples that every entry has, by entry and seed, and what is to be said of the others.

    Raises:
        UserError: there are none, or the references of some differ.
    """
    named = {
        entry: {seed: {p.id: p for p in given} for seed, given in of_seeds.items()}
        for one in read
        for entry, of_seeds in one.answers.items()
    }
    each = [by_id for of_seeds in named.values() for by_id in of_seeds.values()]
    ids = [key for key in each[0] if all(key in by_id for by_id in each)]
    if not ids:
        raise _not_comparable([f"no example of {split} was answered in all runs"])
    if other := sum(any(by_id[key].all_references != each[0][key].all_references for by_id in each) for key in ids):
        raise _not_comparable([f"{other} examples of {split} have other references in another run"])
    if other := sum(any(_asked(by_id[key]) != _asked(each[0][key]) for by_id in each) for key in ids):
        raise _not_comparable([f"{other} examples of {split} have other choices or another source elsewhere"])
    answers = {
        entry: {seed: [by_id[key] for key in ids] for seed, by_id in of_seeds.items()}
        for entry, of_seeds in named.items()
    }
    most = max(map(len, each))
    some = f"Compared on the {len(ids)} examples of {split} that all runs scored; one scored {most}."
    return answers, [some] if len(ids) < most else []


def _asked(answer: Prediction) -> tuple[object, ...]:
    """By what answers to one example are held together: its item, its choices in their order, and the right ones."""
    return answer.resampled_as, tuple(answer.choices), answer.right


def _metrics(folder: RunFolder, found: Sequence[Results], name: str) -> list[Metric]:
    """The metrics that all runs have, the one that they are compared by first; a recipe's own need its file.

    Raises:
        UserError: the recipe's file is needed, and has changed since or is not there.
    """
    shared = [one for one in found[0].metrics if all(one in results.metrics for results in found)]
    own: Mapping[str, str | Metric] = {}
    if name not in known_metrics():
        recipe = RunFolder.open(folder.path).recipe
        own = {one.name: one for one in recipe.metrics if isinstance(one, Metric)}
    names = [name, *(one for one in shared if one != name and one in known_metrics())]
    return find_metrics([own.get(one, one) for one in names])


def _no_seed_changes(run: RunRecord) -> bool:
    """The same of a record of an older version, which didn't say so."""
    return run.reranks is None and (run.baseline or run.learning_rate is None)


def _one_machine(read: Sequence[_Read]) -> bool:
    first = read[0].results.environment
    return all(one.results.environment.get(key) == first.get(key) for one in read for key in MACHINE)


def _remarks(read: Sequence[_Read]) -> list[str]:
    """In what the runs differ besides their methods."""
    first = read[0].results
    asked: dict[str, Callable[[Results], object]] = {
        "their checkpoints": lambda r: (r.checkpoint.name, r.checkpoint.base_sha256),
        "their recipes": lambda r: r.recipe_sha256,
        "the training rows": lambda r: r.data.splits["train"].sha256 if "train" in r.data.splits else None,
        "what the recipe makes of the rows": lambda r: {s: info.examples_sha256 for s, info in r.data.splits.items()},
        "the steps of a training": lambda r: r.budget.steps if r.budget else None,
        "the bits of the base": lambda r: sorted({run.bits for run in r.runs}),
        "the precision of scoring": lambda r: sorted({run.precision for run in r.runs}),
        "versions of libraries": lambda r: r.environment.get("libraries"),
    }
    said = [what for what, of in asked.items() if any(of(one.results) != of(first) for one in read)]
    remarks = [f"The runs differ in {', '.join(said)}, too."] if said else []
    if not _one_machine(read):
        remarks.append("They were carried out on different machines: times and memory are not comparable.")
    return remarks


def _not_comparable(problems: Sequence[str]) -> UserError:
    return UserError(f"these can't be compared: {'; '.join(problems)}")
