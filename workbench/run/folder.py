"""The output folder of a run: what was asked for, its results, the files of each trial, and who works in it."""

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import MISSING, asdict, dataclass, fields, replace
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from workbench import files
from workbench.data.store import Store
from workbench.errors import UserError
from workbench.evaluation.predictions import PREDICTIONS
from workbench.recipe import NOTHING, Recipe, load_recipe
from workbench.results import Results, read_results, write_results
from workbench.run.plan import Plan
from workbench.sources import base_sha256

OPTIONS_FILE = "options.json"
RESULTS_FILE = "results.json"
LOCK_FILE = ".lock"
ELAPSED_FILE = ".seconds"
PREPARED = "prepared"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What was asked for; kept in the output folder, so that a run can be resumed.

    Attributes:
        recipe, recipe_sha256: path of the recipe's file and its checksum; None where it is no file.
        methods: None for the recipe's own.
        model: None for the recipe's checkpoint.
        bits: how the frozen base is held while training.
        seed, seeds: the first seed, and how many.
        limit: at most so many examples of each split; None for all.
        minutes: wall-clock time of the whole run; None for no limit.
        plan: what of the job is carried out to end in time; None while that is not known.
        base_sha256: of the base's weights and configuration; None until they were looked at.
        day: on which it was begun, as 2026-01-31: what chat templates are told that write the date.
    """

    recipe: str | None
    recipe_sha256: str | None
    methods: list[str] | None
    model: str | None
    bits: int
    seed: int
    seeds: int
    limit: int | None
    minutes: float | None = None
    plan: Plan | None = None
    day: str | None = None
    base_sha256: str | None = None


def day_of(options: Options) -> date | None:
    """The day on which a run was begun; None of one that older versions began."""
    return date.fromisoformat(options.day) if options.day else None


def _options(values: Mapping[str, Any]) -> Options:
    """Options as they were written.

    Raises:
        KeyError, TypeError: they are none.
    """
    known = {f.name: values[f.name] for f in fields(Options) if f.default is MISSING or f.name in values}
    if known.get("plan") is not None:
        known["plan"] = Plan(**known["plan"])
    return Options(**known)


class TrialFolder:
    """The files of one entry with one seed.

    Attributes:
        path: of the folder.
        adapter: the adapter, which PEFT loads.
        merged: the merged checkpoint, which transformers loads.
        trained: all weights of a method that trains them, until there is a merged checkpoint.
        training: state of a training that is going on, and TensorBoard's logs.
        calibration: how likelihoods of choices become probabilities.
        reranker: the weights of a reranker.
        labels: the classes of a head, by task.
    """

    # Predictions for the validation split, of an entry that chooses; in the form of predictions.jsonl.
    VALIDATION = "validation.jsonl"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.adapter, self.merged, self.trained = path / "adapter", path / "merged", path / "trained"
        self.training = path / "training"
        self.predictions, self.validation = path / PREDICTIONS, path / self.VALIDATION
        self.calibration, self.reranker = path / "choosing.json", path / "ranker.json"
        self.labels = path / "labels.json"

    def clean_up(self, keep_weights: bool) -> None:
        """Remove what served an interruption that did not come; TensorBoard's logs stay.

        Args:
            keep_weights: leave `trained`, since no merged checkpoint holds these weights.
        """
        leftovers = list(self.training.glob("checkpoint-*"))
        if not keep_weights:
            leftovers.append(self.trained)
        for leftover in leftovers:
            shutil.rmtree(leftover, ignore_errors=True)
        for name in ("best.safetensors", "driver.safetensors", "finished.json"):
            (self.training / name).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all of it, for a trial that is to be done again."""
        shutil.rmtree(self.path, ignore_errors=True)


class RunFolder:
    """The output folder of a run.

    Args:
        path: of the folder.
        options: with which the run was begun.
        recipe: which it carries out; None loads the file that the options name.
    """

    def __init__(self, path: Path, options: Options, recipe: Recipe | None = None) -> None:
        self.path = path
        self.options = options
        self.is_new = False  # made by this process
        self._recipe = recipe

    @classmethod
    def create(cls, path: Path, options: Options, recipe: Recipe | None = None) -> "RunFolder":
        """Make the folder and leave `options` in it.

        Raises:
            UserError: it holds something already, or can't be written.
        """
        folder = cls(path, options, recipe)
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise UserError(f"{path} is not empty: go on with --resume {path}, or choose another --out")
            folder.keep_options()
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            raise UserError(f"can't write to {path}: {error.strerror}") from error
        folder.is_new = True
        return folder

    @classmethod
    def open(cls, path: Path, recipe: Recipe | None = None) -> "RunFolder":
        """The folder of a run that was begun before.

        Args:
            recipe: of a run whose recipe is no file.

        Raises:
            UserError: it is none, its recipe has changed since, or its results are of another version or damaged.
        """
        file = path / OPTIONS_FILE
        if not file.is_file():
            raise UserError(f"{path} is no run: it holds no {OPTIONS_FILE}")
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            options = _options(values)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} can't be read as the options of a run: {error}; begin a new run") from error
        if options.recipe is not None:
            found = Path(options.recipe)
            if found.is_file() and files.sha256_of(found) != options.recipe_sha256:
                raise UserError(f"{options.recipe} has changed since {path} was begun: start a new run")
        folder = cls(path, options, recipe)
        if folder.has_results:
            folder.read_results()  # what can't be read is told before anything is prepared
        return folder

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe, its file run once.

        Raises:
            UserError: it can't be loaded, or is no file and was not given.
        """
        if self._recipe is not None:
            return self._recipe
        if self.options.recipe is None:
            raise UserError(
                f"the recipe of {self.path} is no file: give it, as in load_run({str(self.path)!r}, recipe)"
            )
        return load_recipe(Path(self.options.recipe))

    def require_base(self, base: Path) -> None:
        """See that a base is the one with which the run was begun, or note which it is.

        Args:
            base: the checkpoint's folder.

        Raises:
            UserError: it is another one.
        """
        found, known = base_sha256(base), self.options.base_sha256
        if known is None:
            self.options = replace(self.options, base_sha256=found)
        elif known != found:
            raise UserError(
                f"the checkpoint in {base} is not the one with which {self.path} was begun (sha256 of weights and "
                f"configuration {found[:12]}, then {known[:12]}): what was trained belongs to that one. Bring it back, "
                "or begin a new run"
            )

    def keep_options(self) -> None:
        """Write the options down."""
        files.write_json(self.path / OPTIONS_FILE, asdict(self.options))

    @property
    def has_results(self) -> bool:
        """Whether a trial was carried through."""
        return (self.path / RESULTS_FILE).is_file()

    def read_results(self) -> Results:
        """The results so far.

        Raises:
            UserError: there are none yet, or they can't be read.
        """
        if not self.has_results:
            raise UserError(f"{self.path} holds no {RESULTS_FILE}: the run has not finished a method yet")
        return read_results(self.path / RESULTS_FILE)

    def write_results(self, results: Results) -> None:
        """Write the results down, whole or not at all."""
        write_results(self.path / RESULTS_FILE, results)

    def trial(self, entry: str, seed: int, settings: Mapping[str, Any] = NOTHING) -> TrialFolder:
        """Where an entry with a seed has its files.

        Args:
            settings: of a trial that has some of its own, which must not go on from the state of another.
        """
        name = entry if self.options.seeds == 1 else f"{entry}-seed{seed}"
        if settings:
            digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
            name = f"{name}-{digest[:12]}"
        return TrialFolder(self.path / name)

    @property
    def prepared(self) -> Store:
        """Where prepared data lie until every trial is done: a run that goes on, or another process, opens them."""
        return Store(self.path / PREPARED)

    @property
    def elapsed(self) -> Path:
        """Where it is noted how long the run has gone on, until every trial is done."""
        return self.path / ELAPSED_FILE

    def clean_up(self) -> None:
        """Remove what served an interruption that did not come."""
        shutil.rmtree(self.path / PREPARED, ignore_errors=True)
        self.elapsed.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove a folder in which nothing was carried through, so that its path can be given again."""
        self.clean_up()
        for name in (OPTIONS_FILE, LOCK_FILE):
            (self.path / name).unlink(missing_ok=True)
        with suppress(OSError):  # it holds something of the user's
            self.path.rmdir()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out while the block runs; the lock goes with the process.

        Raises:
            UserError: another process works in the folder.
        """
        lock = FileLock(self.path / LOCK_FILE, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise UserError(f"another process works in {self.path}: wait until it ends, or stop it") from None
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            raise UserError(f"can't write to {self.path}: {error.strerror}") from error
        try:
            yield
        finally:
            lock.release()
