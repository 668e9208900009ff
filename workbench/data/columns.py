"""Examples of columns that are named, or found by looking: a text and its label, or a question and its answer."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from workbench.data.examples import Example, Message, choice, conversation, label_text, row_id
from workbench.data.notes import note_shape
from workbench.data.shapes import SHAPES, find_shape, text_of
from workbench.data.turns import trimmed
from workbench.errors import UserError, unknown
from workbench.recipe import Recipe
from workbench.sources import Source, name_of, read_rows

# Rows that are looked at for their columns.
LOOKED_AT = 100
# Names of columns under which texts and their labels come, the likeliest first.
TEXTS = ("text", "sentence", "review", "tweet", "comment", "content", "document", "headline", "utterance")
LABELS = ("label", "labels", "category", "class", "sentiment", "intent", "topic", "target", "rating")
# More labels than this are no classes, nor are labels of which most stand once.
MOST_LABELS = 500
# As many at most are named in the question.
NAMED = 20


@dataclass(frozen=True, kw_only=True)
class ByColumns:
    """Makes the examples of a row by the names of its columns; asks of new rows without their answer.

    Attributes:
        text: column of what is asked, or of the text that has a label.
        label: column of the label, of which the model chooses one; None where it writes.
        answer: column of the answer that it writes; None where it chooses.
        choices: all labels.
    """

    text: str
    label: str | None = None
    answer: str | None = None
    choices: tuple[str, ...] = ()

    def __call__(self, row: Mapping[str, Any]) -> list[Example]:
        """One example.

        Raises:
            ValueError: naming every problem of the row.
        """
        if self.label is not None:
            note_shape(f"text and label: {self.text}, {self.label} (one of {len(self.choices)})", self._columns)
        else:
            note_shape(f"question and answer: {self.text}, {self.answer}", self._columns)
        column = self.label or self.answer
        assert column is not None
        problems: list[str] = []
        text = _or_problem(row.get(self.text), self.text, problems)
        if self.label is None:
            answer = _or_problem(row.get(column), column, problems)
        elif (found := label_of(row.get(column))) is None:
            problems.append(f"no {column!r}")
        else:
            answer = found
        if problems:
            raise ValueError("; ".join(problems))
        return [self._example(row, text, answer)]

    def ask(self, row: Mapping[str, Any]) -> list[Example]:
        """What a new row is asked.

        Args:
            row: with the column of the text, under its name or as `text`; where the model writes, a conversation will
                do as well.

        Raises:
            ValueError: it has no text.
        """
        if self.label is None and "messages" in row and self.text not in row:
            return conversation(row)[-1:]
        return [self._example(row, text_of(row.get(self.text, row.get("text")), self.text), None)]

    @property
    def _columns(self) -> tuple[str, ...]:
        return tuple(column for column in (self.text, self.label, self.answer) if column is not None)

    def _example(self, row: Mapping[str, Any], text: str, answer: str | None) -> Example:
        if self.label is not None:
            named = f": {', '.join(self.choices)}?" if len(self.choices) <= NAMED else "?"
            return choice(row, f"{text.strip()}\n{self.label}{named}", self.choices, answer, task=self.label)
        name = row_id(row, [])
        asked = Message(role="user", content=trimmed(text))
        return Example(id=name, prompt=(asked,), completion=trimmed(answer or ""), source=name)


def _or_problem(value: Any, name: str, problems: list[str]) -> str:
    try:
        return text_of(value, name)
    except ValueError as error:
        problems.append(str(error))
        return ""


def label_of(value: Any) -> str | None:
    """A label without spaces around it; None for a cell that is empty or no number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return label_text(value).strip() or None


def looked_at(recipe: Recipe) -> Recipe:
    """The recipe with what it leaves out about its rows, found by looking at them.

    A recipe with `row_to_examples` is left as it is. Where the model chooses, all rows are read for their labels.

    Raises:
        UserError: the columns that it names are not there, are no labels, or none can be told by their names.
    """
    if recipe.row_to_examples is not None:
        return recipe
    columns = {name: columns_of(source) for name, source in recipe.sources.items()}
    text, label, answer = recipe.text, recipe.label, recipe.answer
    if text is None:
        if all(map(find_shape, columns.values())):
            asks = recipe.inference_examples or (lambda row: conversation(row)[-1:])
            return replace(recipe, row_to_examples=conversation, inference_examples=asks)
        text, label = _found_by_name(recipe.sources, columns)
    for name, source in recipe.sources.items():
        for column in (text, label, answer):
            if column is not None and column not in columns[name]:
                raise unknown(f"column of {name_of(source)}", column, columns[name])
    choices = tuple(all_labels(recipe.sources, label)) if label is not None else ()
    make = ByColumns(text=text, label=label, answer=answer, choices=choices)
    return with_columns(recipe, make)


def with_columns(recipe: Recipe, make: ByColumns) -> Recipe:
    """The recipe with examples by the columns of `make`, where it has no functions of its own."""
    asks = recipe.inference_examples or make.ask
    return replace(recipe, row_to_examples=make, inference_examples=asks, text=None, label=None, answer=None)


def columns_of(source: Source) -> list[str]:
    """The columns of the first rows.

    Raises:
        UserError: the source can't be read.
    """
    rows = list(islice(read_rows(source), LOOKED_AT))
    return list(dict.fromkeys(column for row in rows for column in row.values))


def text_and_label(columns: Iterable[str]) -> tuple[str | None, str | None]:
    """Columns whose names say that they are a text and a label."""
    here = {str(name).strip().casefold(): name for name in columns}
    text, label = (next((here[name] for name in names if name in here), None) for names in (TEXTS, LABELS))
    return text, label


def _found_by_name(sources: Mapping[str, Source], columns: Mapping[str, list[str]]) -> tuple[str, str]:
    """The text's column and the label's, the same ones in all sources."""
    found = {text_and_label(names) for names in columns.values()}
    text, label = found.pop()
    if found or text is None or label is None:
        seen = dict.fromkeys(f"{', '.join(names)} ({name_of(sources[one])})" for one, names in columns.items())
        known = dict.fromkeys(" and ".join(shape.columns) for shape in SHAPES[:5])
        raise UserError(
            f"columns {'; '.join(seen)} are in no shape that is known, such as {', '.join(known)}, prompt and "
            "completion, text and label: say in the recipe which they are, Recipe(text=..., label=...) for a text and "
            "its class, Recipe(text=..., answer=...) for a question and its answer, or give row_to_examples"
        )
    return text, label


def all_labels(sources: Mapping[str, Source], label: str) -> list[str]:
    """All labels of the sources in their order: numbers by their size, others by their letters.

    Raises:
        UserError: the column's values are no classes, or only one.
    """
    counts: Counter[str] = Counter()
    for source in sources.values():
        found = (label_of(row.values.get(label)) for row in read_rows(source))
        counts.update(value for value in found if value is not None)
    rows = counts.total()
    if len(counts) > MOST_LABELS or len(counts) > max(NAMED, rows / 2):
        raise UserError(
            f"{label!r} has {len(counts)} different values in {rows} rows, such as {next(iter(counts))[:40]!r}: these "
            "are no classes. For a text to be written, say Recipe(answer=...) instead of label"
        )
    if len(counts) < 2:
        only = f"only the value {next(iter(counts))!r}" if counts else "no value"
        raise UserError(f"{label!r} has {only} in all rows: there is nothing to choose from")
    return sorted(counts, key=lambda value: (0, int(value), value) if _is_integer(value) else (1, 0, value))


def _is_integer(value: str) -> bool:
    return value.removeprefix("-").isascii() and value.removeprefix("-").isdecimal()
