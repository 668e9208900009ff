"""A finished run carried out again: what came out the same, bit for bit or within what."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from workbench.errors import UserError
from workbench.evaluation import read_predictions
from workbench.results import Results, RunRecord
from workbench.run.folder import RunFolder, TrialFolder
from workbench.run.manifest import MANIFEST_FILE, require_unchanged
from workbench.run.origin import git_state

# Of the environment, what may change a result.
DECISIVE = ("processor", "device", "cpu_capability", "bfloat16_in_hardware", "threads", "python", "workbench")


def again(path: Path) -> RunFolder:
    """What carries out a finished run once more: nothing is written yet, and its path is that of the run.

    It has the same options: recipe, base, methods, seeds, bits and day; of a run that was cut to end in time, the part
    that was carried out.

    Raises:
        UserError: it is no run, holds no finished method, or what it left or its recipe has changed.
    """
    before = RunFolder.open(path)
    if before.options.recipe is None:
        raise UserError(f"the recipe of {path} is no file: repeat it from Python, with run_recipe")
    done = [run for run in before.read_results().runs if run.done]
    if not done:
        raise UserError(f"{path} holds no finished method: there is nothing to repeat")
    for run in done:  # before hours are spent
        require_unchanged(before.trial(run.method, run.seed), run)
    state = git_state(Path(before.options.recipe).parent)
    return RunFolder(path, replace(before.options, versions=None, git=state, id=None, data=None), before.recipe)


def repeated_text(before: RunFolder, now: RunFolder) -> str:
    """What came out the same, in Markdown: a line for each entry and seed, and in what machine and versions differ.

    Raises:
        UserError: what the earlier run left was changed since.
    """
    results, then = now.read_results(), before.read_results()
    earlier = {(run.method, run.seed): run for run in then.runs if run.done}
    lines = [f"# {now.path} repeats {before.path}", ""]
    for run in results.runs:
        one = earlier.get((run.method, run.seed))
        name = f"- {run.method}, seed {run.seed}: "
        if one is None or not run.done:
            lines.append(name + ("it failed this time" if one else "it was not finished then"))
            continue
        trials = before.trial(run.method, run.seed), now.trial(run.method, run.seed)
        require_unchanged(trials[0], one)
        lines.append(name + _difference(one, run, trials))
    if differs := _surroundings(then, results):
        lines += ["", "Since then another: " + "; ".join(differs) + "."]
    return "\n".join(lines) + "\n"


def _difference(then: RunRecord, now: RunRecord, trials: tuple[TrialFolder, TrialFolder]) -> str:
    """In what two records of one trial differ."""
    sums = [_checksums(trial) for trial in trials]
    weights = [{name: sha for name, sha in one.items() if name.endswith(".safetensors")} for one in sums]
    answers = [one.get("predictions.jsonl") for one in sums]
    if weights[0] == weights[1] and answers[0] == answers[1] and _values(then) == _values(now):
        kept = "weights, answers and scores are" if weights[0] else "answers and scores are"
        return f"{kept} the same, bit for bit"
    parts = ["the weights are the same, bit for bit"] if weights[0] and weights[0] == weights[1] else []
    if then.steps != now.steps:
        parts.append(f"{now.steps} steps in place of {then.steps}")
    given = [{(p.split, p.id): p.prediction for p in read_predictions(trial.path)} for trial in trials]
    shared = given[0].keys() & given[1].keys()
    same = sum(given[0][key] == given[1][key] for key in shared)
    parts.append(f"{same} of {len(shared)} answers are the same")
    apart = {label: abs(value - _values(now).get(label, value)) for label, value in _values(then).items()}
    if apart:
        label = max(apart, key=apart.__getitem__)
        most = f"scores differ by {apart[label]:.3g} at most ({label})"
        parts.append(most if apart[label] else "all scores are equal")
    if then.validation_loss is not None and now.validation_loss is not None:
        parts.append(f"the validation loss by {abs(then.validation_loss - now.validation_loss):.2g}")
    return "; ".join(parts)


def _values(run: RunRecord) -> dict[str, float]:
    return {label: score.value for label, score in run.metrics.items()}


def _checksums(trial: TrialFolder) -> Mapping[str, str]:
    """File -> sha256, as the trial noted them when it was finished; none of a run of an older version."""
    path = trial.path / MANIFEST_FILE
    return dict(json.loads(path.read_text(encoding="utf-8"))["files"]) if path.is_file() else {}


def _surroundings(then: Results, now: Results) -> list[str]:
    """What of machine and versions is another."""
    was, new = ({**one.environment, **one.environment.get("libraries", {})} for one in (then, now))
    names = [*DECISIVE, *then.environment.get("libraries", {})]
    return [f"{name} {was.get(name)}, now {new.get(name)}" for name in names if was.get(name) != new.get(name)]
