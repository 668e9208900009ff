"""Reading one source: every row made into examples on disk, everything wrong with it named, its form noted."""

import logging
import traceback
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from workbench.data.columns import ByColumns
from workbench.data.examples import Example, MakeExamples, conversation
from workbench.data.notes import noting
from workbench.data.pairs import EXAMPLES_SCHEMA, Examples
from workbench.data.store import Store
from workbench.errors import Problem
from workbench.sources import Fingerprint, Row, Source, name_of, open_rows

logger = logging.getLogger(__name__)

PACKAGE = str(Path(__file__).parent.parent)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a source was found to be.

    Attributes:
        source, format: its name, and in what form it is, such as "CSV, semicolons, cp1252".
        rows: how many.
        columns: name -> rows in which it is not empty.
        shapes: what the rows were read as, in words -> how many.
        unused: columns that nothing reads, as far as that is known: a function of the recipe's own may read all.
        remarks: what else is worth a line -> how often.
    """

    source: str
    format: str
    rows: int
    columns: Mapping[str, int] = field(default_factory=dict)
    shapes: Mapping[str, int] = field(default_factory=dict)
    unused: Sequence[str] = ()
    remarks: Mapping[str, int] = field(default_factory=dict)


class ReadSource:
    """The examples of a source, and what tells them apart as numbers of 64 bits.

    Args:
        make: row -> examples.
        problems: to which everything is added that is wrong with the rows.
        store, name: where the examples go.
        is_divided: into splits, so that `sources` and `labels` are needed.

    Attributes:
        fingerprint: see `workbench.sources.Fingerprint`.
        found: what the source is.
    """

    def __init__(
        self,
        source: Source,
        make: MakeExamples,
        problems: list[str | Problem],
        store: Store,
        name: str,
        is_divided: bool = False,
    ) -> None:
        self._ids, self._questions, self._answers = array("q"), array("q"), array("q")
        self._sources, self._labels = array("q"), array("q")
        self._is_divided = is_divided
        self._rows, self._columns = 0, Counter[str]()
        fingerprint = Fingerprint(source)
        opened = open_rows(source)
        if not opened.is_usual:
            logger.info("%s: %s", name_of(source), opened.format)
        self.name = name
        with noting() as notes:
            records = self._records(opened.rows, make, fingerprint, problems)
            self._dataset = store.write(name, records, EXAMPLES_SCHEMA)
        is_known = make is conversation or isinstance(make, ByColumns)
        self.found = Found(
            source=name_of(source),
            format=opened.format,
            rows=self._rows,
            columns=dict(self._columns),
            shapes=dict(notes.shapes) if notes.shapes else {_function(make): self._rows},
            unused=[column for column in self._columns if column not in notes.columns | {"id"}] if is_known else [],
            remarks=dict(notes.remarks),
        )
        self.fingerprint = str(fingerprint)
        problems += self._repeated_ids()

    def __len__(self) -> int:
        return len(self._dataset)

    @property
    def questions(self) -> np.ndarray:
        """A number for each question, (examples,)."""
        return np.frombuffer(self._questions, dtype=np.int64)

    @property
    def answers(self) -> np.ndarray:
        """A number for each question with its answer, (examples,)."""
        return np.frombuffer(self._answers, dtype=np.int64)

    @property
    def sources(self) -> np.ndarray:
        """A number for what each example is a part of, (examples,)."""
        return np.frombuffer(self._sources, dtype=np.int64)

    @property
    def labels(self) -> np.ndarray:
        """A number for each example's class; the same for all that have none, (examples,)."""
        return np.frombuffer(self._labels, dtype=np.int64)

    def place(self, index: int | np.integer) -> str:
        """Where the row of an example stands."""
        return str(self._dataset[int(index)]["place"])

    def at(self, indices: np.ndarray) -> Examples:
        """The examples at `indices`, in their order."""
        return Examples(self._dataset, indices)

    def _records(
        self, rows: Iterable[Row], make: MakeExamples, fingerprint: Fingerprint, problems: list[str | Problem]
    ) -> Iterator[dict[str, str]]:
        for row in rows:
            fingerprint.add(row)
            self._rows += 1
            try:
                values = _with_id(row)
                for column, value in row.values.items():
                    if value is not None and value != "":
                        self._columns[column] += 1
                made = _made(make, values)
                lines = [_checked_line(example) for example in made]
            except ValueError as error:
                problems.append(Problem(row.place, str(error)))
                continue
            for example, line in zip(made, lines, strict=True):
                right = (example.completion,) * bool(example.completion) if example.labels is None else example.labels
                if example.choices and (new := set(right) - set(example.choices)):
                    wrong = f"{', '.join(map(repr, sorted(new)))} is none of the choices of {example.id!r}"
                    problems.append(Problem(row.place, wrong))
                if not example.completion:
                    problems.append(Problem(row.place, f"{example.id!r} has no answer"))
                question = example.folded_prompt
                self._ids.append(hash(example.id))
                self._questions.append(hash(question))
                self._answers.append(hash((question, example.completion)))
                if self._is_divided:
                    self._sources.append(hash(example.source or example.id))
                    self._labels.append(hash((example.task, example.completion)) if example.choices else 0)
                yield {"example": line, "place": row.place}

    def _repeated_ids(self) -> list[Problem]:
        """What is wrong with ids that stand there twice."""
        ids = np.frombuffer(self._ids, dtype=np.int64)
        order = np.argsort(ids, kind="stable")
        again = np.flatnonzero(ids[order[1:]] == ids[order[:-1]])
        pairs = sorted((int(order[index + 1]), int(order[index])) for index in again)
        if not pairs:
            return []
        seconds, firsts = (self._dataset[list(places)] for places in zip(*pairs, strict=True))
        problems = []
        for second, place, first, before in zip(
            seconds["example"], seconds["place"], firsts["example"], firsts["place"], strict=True
        ):
            name = Example.from_json(second).id
            if name == Example.from_json(first).id:
                problems.append(Problem(place, f"id {name!r} stands at {before} already"))
        return problems


def _with_id(row: Row) -> Mapping[str, Any]:
    """A row's columns; without an id, its place is its id.

    Raises:
        ValueError: it has no columns.
    """
    if not isinstance(row.values, Mapping):
        raise ValueError(f"a row must be a mapping from columns to values, not {type(row.values).__name__}")
    return row.values if row.values.get("id") not in (None, "") else {**row.values, "id": row.place}


def _made(make: MakeExamples, values: Mapping[str, Any]) -> list[Example]:
    """The examples of a row.

    Raises:
        ValueError: whatever the recipe's function raised, with its line: one row must not hide what is wrong with
            others.
    """
    try:
        made = list(make(values))
    except ValueError:
        raise
    except Exception as error:
        if isinstance(error, KeyError) and not any(value == error.args[0] for value in values.values()):
            raise ValueError(f"no column {error}") from error
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(PACKAGE)]
        where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
        raise ValueError(f"{type(error).__name__}{where}: {error}") from error
    for example in made:
        if not isinstance(example, Example):
            raise ValueError(f"row_to_examples gave a {type(example).__name__}, not an Example")
    return made


def _function(make: MakeExamples) -> str:
    """A function of the recipe's own, for messages."""
    name = getattr(make, "__name__", type(make).__name__)
    return "the recipe's row_to_examples" if name == "<lambda>" else f"the recipe's function {name}"


def _line(example: Example) -> str:
    """An example as it is kept.

    Raises:
        ValueError: its id is no text, a message or its answer is none, its references are not several texts, or it
            holds something that JSON can't, or a text that is no Unicode.
    """
    if not isinstance(example.id, str):
        raise ValueError(f"id {example.id!r} is no text")
    if not isinstance(example.completion, str):
        raise ValueError(f"the answer of {example.id!r} is {_kind(example.completion)}, not a text")
    for number, message in enumerate(example.prompt, 1):
        if not isinstance(message["content"], str):
            raise ValueError(f"message {number} of {example.id!r} is {_kind(message['content'])}, not a text")
    further: Any = example.references
    if not isinstance(further, (list, tuple)) or not all(isinstance(text, str) for text in further):
        raise ValueError(f"references of {example.id!r} must be a tuple of texts, not {further!r}")
    try:
        line = example.to_json()
    except TypeError as error:
        raise ValueError(str(error)) from error
    line.encode()
    return line


def _checked_line(example: Example) -> str:
    """An example as it is kept.

    Raises:
        ValueError: it can't be; a function of the recipe's own may have put anything into it.
    """
    try:
        return _line(example)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{example.id!r} is no example: {type(error).__name__}: {error}") from error


def _kind(value: Any) -> str:
    return "empty" if value is None else f"of type {type(value).__name__}"
