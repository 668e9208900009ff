"""The output folder of a run: what was asked for, its results, the files of each trial, and who works in it."""

import errno
import hashlib
import json
import logging
import os
import shutil
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from workbench import files
from workbench.data.store import Store
from workbench.errors import UserError
from workbench.evaluation.predictions import PREDICTIONS
from workbench.recipe import NOTHING, Recipe, imported_beside, load_recipe
from workbench.results import Results, read_results, write_results
from workbench.run.options import Options, options_of
from workbench.sources import base_sha256, weights_sha256

logger = logging.getLogger(__name__)

OPTIONS_FILE = "options.json"
RESULTS_FILE = "results.json"
LOCK_FILE = ".lock"
OWNER_FILE = ".owner"
ELAPSED_FILE = ".seconds"
PREPARED = "prepared"
TUNING = "tuning"
WORKERS = "workers"


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

    def set_aside(self) -> Path | None:
        """Give it another name, for a trial that is to be done again; None if nothing is there."""
        names = (self.path.with_name(f"{self.path.name}.changed{number or ''}") for number in count())
        aside = next(path for path in names if not path.exists())
        return self.path.rename(aside) if self.path.exists() else None


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
        folder = cls(path, replace(options, id=uuid.uuid4().hex), recipe)
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
    def open(cls, path: Path, recipe: Recipe | None = None, *, its_code: bool = True) -> "RunFolder":
        """The folder of a run that was begun before.

        Args:
            recipe: of a run whose recipe is no file.
            its_code: whether the recipe's file will be run, which must be what it was, then.

        Raises:
            UserError: it is none, its recipe has changed since, or its results are of another version or damaged.
        """
        file = path / OPTIONS_FILE
        if not file.is_file():
            raise UserError(f"{path} is no run: it holds no {OPTIONS_FILE}")
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            options = options_of(values)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            wrong = " ".join(str(error).split())[:300]
            raise UserError(f"{file} can't be read as the options of a run: {wrong}; begin a new run") from error
        if its_code and options.recipe is not None:
            _require_same_code(Path(options.recipe), options, path)
            logger.info("the recipe of %s is %s, which is run", path, options.recipe)
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
        elif known not in (found, weights_sha256(base)):
            raise UserError(
                f"the checkpoint in {base} is not the one with which {self.path} was begun (sha256 of weights, "
                f"configuration and tokenizer {found[:12]}, then {known[:12]}): what was trained belongs to that one. "
                "Bring it back, or begin a new run"
            )

    def keep_options(self) -> None:
        """Write the options down, and what the recipe has imported of what lies beside it."""
        if self.options.recipe is not None and self._is_loaded:
            file, options = Path(self.options.recipe), self.options
            now = imported_beside(file)
            neighbours = {**now, **(options.neighbours or {})}
            self.options = replace(options, neighbours=neighbours, code={**_texts(file, now), **(options.code or {})})
        files.write_json(self.path / OPTIONS_FILE, asdict(self.options))

    @property
    def _is_loaded(self) -> bool:
        return self._recipe is not None or "recipe" in vars(self)

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
    def tuning(self) -> Path:
        """Where the trials are kept by which settings are chosen."""
        return self.path / TUNING

    @property
    def workers(self) -> Path:
        """Where processes that carry out tasks write what they have to say, until every trial is done."""
        return self.path / WORKERS

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
        for name in (PREPARED, WORKERS):
            shutil.rmtree(self.path / name, ignore_errors=True)
        self.elapsed.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove a folder in which nothing was carried through, so that its path can be given again."""
        self.clean_up()
        for name in (OPTIONS_FILE, OWNER_FILE, LOCK_FILE):
            (self.path / name).unlink(missing_ok=True)
        with suppress(OSError):  # it holds something of the user's
            self.path.rmdir()

    @contextmanager
    def locked(self, reading: bool = False) -> Iterator[None]:
        """Keep other processes out while the block runs; the lock goes with the process.

        Args:
            reading: only, so that a folder that can't be written will do.

        Raises:
            UserError: another process works in the folder.
        """
        lock, owner = FileLock(self.path / LOCK_FILE, timeout=0), self.path / OWNER_FILE
        try:
            lock.acquire()
            if not reading:
                files.remove_leftovers(self.path)
            files.write_text(owner, f"process {os.getpid()} on {socket.gethostname()}")
        except Timeout:
            raise UserError(f"{_owner(owner)} works in {self.path}: wait until it ends, or stop it") from None
        except OSError as error:
            lock.release()
            if error.errno == errno.ENOSPC:
                raise
            if not reading:
                raise UserError(f"can't write to {self.path}: {error.strerror}") from error
        try:
            yield
        finally:
            if lock.is_locked:
                owner.unlink(missing_ok=True)
                lock.release()


def _texts(recipe: Path, neighbours: Mapping[str, str]) -> dict[str, str]:
    """The texts of a recipe's file and of modules beside it, by their path from its folder."""
    names = [recipe.name, *(name for name in neighbours if name.endswith(".py"))]
    return {name: (recipe.parent / name).read_text(encoding="utf-8", errors="replace") for name in names}


def _require_same_code(recipe: Path, options: Options, run: Path) -> None:
    """See that a recipe's file, and what it imports of what lies beside it, are what they were, before they are run.

    Raises:
        UserError: they have changed.
    """
    expected = {recipe: options.recipe_sha256}
    expected |= {recipe.parent / name: sha256 for name, sha256 in (options.neighbours or {}).items()}
    for file, sha256 in expected.items():
        if file.is_file() and files.sha256_of(file) != sha256:
            imported = f", which {recipe} imports," if file != recipe else ""
            raise UserError(f"{file}{imported} has changed since {run} was begun: start a new run")


def _owner(file: Path) -> str:
    """Who has a lock, as it said itself."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return "another process"
