"""A run from Python: the same as the command, with objects in place of arguments. See docs/python.md."""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

from workbench.compare import table
from workbench.compare.language import LANGUAGES
from workbench.console import quiet_libraries
from workbench.errors import UserError, unknown
from workbench.evaluation import Prediction, read_predictions
from workbench.export.formats.verdict import Verdict
from workbench.methods import method_and_head
from workbench.models import default_bits
from workbench.recipe import Recipe
from workbench.results import Comparison, ExportRecord, Price, Results
from workbench.run.export import export_method, finished_record
from workbench.run.folder import RunFolder
from workbench.run.formats import export_format
from workbench.run.manifest import require_unchanged
from workbench.run.options import Options
from workbench.run.run import begin_run
from workbench.run.side_by_side import side_by_side
from workbench.run.tuned import TunedModel, load_base, load_tuned


class Run:
    """A finished run.

    Attributes:
        folder: its output folder.
        results: what it found.
    """

    def __init__(self, folder: RunFolder, results: Results) -> None:
        self.folder = folder
        self.results = results

    @property
    def path(self) -> Path:
        """Of the output folder."""
        return self.folder.path

    @property
    def table(self) -> str:
        """The comparison in Markdown."""
        return table(self.results)

    def predictions(self, method: str, seed: int | None = None) -> list[Prediction]:
        """What a method said.

        Args:
            seed: of several; None takes the first.

        Raises:
            UserError: the run has no such method, it failed, or what it left was changed since.
        """
        record = finished_record(self.folder, method, seed)
        trial = self.folder.trial(method, record.seed)
        require_unchanged(trial, record)
        return read_predictions(trial.path)

    def load(self, method: str | None = None, seed: int | None = None) -> TunedModel:
        """Open a method as it ships.

        Args:
            method: None takes the best by the primary metric.
            seed: of several; None takes the first that is done.

        Raises:
            UserError: the run has no such method, or it failed.
        """
        return load_tuned(self.folder, method, seed)

    def load_base(self) -> TunedModel:
        """Open the untuned base."""
        return load_base(self.folder)

    def export(
        self,
        method: str,
        to: str | Path,
        *,
        seed: int | None = None,
        precision: str | None = None,
        base: str | None = None,
    ) -> ExportRecord:
        """Make a merged checkpoint of a method, and prove it; see `workbench.run.export.export_method`."""
        return export_method(self.folder, method, Path(to), seed=seed, precision=precision, base=base)

    def export_as(
        self,
        kind: str,
        method: str,
        to: str | Path,
        *,
        quantization: str | None = None,
        seed: int | None = None,
        accept_loss: bool = False,
        base: str | None = None,
    ) -> Verdict:
        """Write a method in another format, such as "gguf"; see `workbench.run.formats.export_format`."""
        how: dict[str, Any] = {"quantization": quantization, "seed": seed, "accept_loss": accept_loss, "base": base}
        return export_format(self.folder, method, Path(to), kind, **how)


def run_recipe(
    recipe: Recipe,
    *,
    methods: Sequence[str] | None = None,
    model: str | None = None,
    bits: int | None = None,
    precision: str = "float32",
    seed: int = 0,
    seeds: int = 1,
    tune: int | None = None,
    curve: bool = False,
    price: str | None = None,
    language: str = "en",
    track: Sequence[str] = (),
    limit: int | None = None,
    minutes: float | None = None,
    out: str | Path | None = None,
) -> Run:
    """Carry out a recipe: train, score, export and compare its methods.

    Args:
        methods: of `workbench.methods`; None takes the recipe's.
        model: another checkpoint than the recipe's.
        bits: how the frozen base is held while training: 32, 16, 8 or 4; None: 16 where bfloat16 is fast, else 32.
        precision: in what is scored, merged and proven: "float32", or "bfloat16", which takes half the memory.
        seed, seeds: the first seed, and how many.
        tune: trials by which the settings of each method are chosen; None takes them as they are.
        curve, price: as `--curve`; of an hour of this machine, such as "1.20 USD".
        language, track: of the report, "en" or "zh"; and trackers beside TensorBoard, such as "mlflow".
        limit: at most so many examples of each split.
        minutes: the run ends within so many, cut alike for every method; None takes the recipe's, or no limit.
        out: the output folder, which must be empty or new; None takes `runs/<name>/<date-time>`.

    Raises:
        UserError: anything in the arguments, the recipe or the data that has to be mended.
    """
    began = time.perf_counter()
    quiet_libraries()
    recipe = replace(recipe, name=recipe.name or "recipe")
    options = Options(
        recipe=None,
        recipe_sha256=None,
        methods=list(methods) if methods is not None else None,
        model=model,
        bits=bits or default_bits(),
        precision=precision,
        seed=seed,
        seeds=seeds,
        tune=tune,
        curve=curve,
        price=price,
        language=language,
        track=tuple(track),
        limit=limit,
        minutes=minutes or recipe.training.minutes,
        day=date.today().isoformat(),
    )
    _require_sensible(options)
    folder = RunFolder.create(Path(out or _usual_path(recipe)), options, recipe)
    return Run(folder, begin_run(folder, began))


def _usual_path(recipe: Recipe) -> Path:
    return Path("runs", recipe.name, datetime.now().strftime("%Y-%m-%d-%H%M%S"))


def _require_sensible(options: Options) -> None:
    """See that a run can be carried out so.

    Raises:
        UserError: a number that is too small, no price, or no method.
    """
    if min(options.seeds, *(number for number in (options.limit, options.tune) if number is not None), 1) < 1:
        raise UserError("seeds, limit and tune must be at least 1")
    if options.language not in LANGUAGES:
        raise unknown("language of a report", options.language, LANGUAGES)
    if options.minutes is not None and not options.minutes > 0:
        raise UserError("minutes must be above 0")
    for name in options.methods or ():
        method_and_head(name)
    try:
        Price.of(options.price or "1")
    except ValueError as error:
        raise UserError(f'price must be that of an hour, such as "1.20 USD", not {options.price!r}') from error


def load_run(path: str | Path, recipe: Recipe | None = None) -> Run:
    """Open the output folder of a run.

    Args:
        recipe: of a run whose recipe is no file; needed to ask its models of new rows.

    Raises:
        UserError: it is no run, or holds no results yet.
    """
    folder = RunFolder.open(Path(path), recipe)
    return Run(folder, folder.read_results())


def compare_runs(*paths: str | Path) -> list[Comparison]:
    """Compare every two entries of several runs on the same data, paired over the examples.

    Args:
        paths: output folders.

    Returns:
        As `results.json` has them, by the primary metric on the first evaluated split; entries are called
        `<name of the folder>/<entry>`. `python -m workbench.compare` shows them.

    Raises:
        UserError: runs that can't be compared, see `workbench.run.side_by_side`.
    """
    if len({Path(path).resolve() for path in paths}) < 2:
        raise UserError("give two runs or more to compare")
    return list(side_by_side(paths).results.comparisons)
