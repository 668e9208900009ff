"""What a data file holds, and which recipe suits it, by the names and the values of its columns."""

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.data.columns import MOST_LABELS, label_of, text_and_label
from workbench.data.shapes import find_shape, turns_of
from workbench.errors import UserError, unknown
from workbench.sources import DataFile, open_rows

# Characters of a token, about; where a letter is a word, one.
CHARACTERS_A_TOKEN = 3
# A label stands in this many rows at least, on average, where no name says that it is one.
ROWS_A_LABEL = 5
MOST_GUESSED = 50


@dataclass
class Column:
    """One column.

    Attributes:
        filled: rows in which it is not empty.
        values: how often each stands there; None from the moment when there are too many for labels.
        lengths: characters of its texts.
    """

    filled: int = 0
    values: Counter[str] | None = field(default_factory=Counter)
    lengths: array = field(default_factory=lambda: array("q"))

    def add(self, value: Any) -> None:
        """Take note of a value."""
        found = None if isinstance(value, list | dict) else label_of(value)
        if value in (None, "", []):
            return
        self.filled += 1
        if found is None:
            self.values = None
            return
        self.lengths.append(len(found))
        if self.values is not None:
            self.values[found] += 1
            if len(self.values) > MOST_LABELS:
                self.values = None


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was found.

    Attributes:
        file, format, rows: as `workbench.data.reading.Found`.
        columns: by name.
        shape: in words, of rows that hold conversations; None for others.
        text, label, answer: columns, where it is none.
        is_guessed: by values, since no name told.
        lengths: characters of what is asked and answered in each row.
        unreadable: what is wrong with rows that hold no conversation -> how many.
    """

    file: DataFile
    format: str
    rows: int
    columns: Mapping[str, Column]
    shape: str | None = None
    text: str | None = None
    label: str | None = None
    answer: str | None = None
    is_guessed: bool = False
    lengths: Sequence[int] = ()
    unreadable: Mapping[str, int] = field(default_factory=dict)

    @property
    def labels(self) -> Counter[str]:
        """How often each label stands there; none where there are no labels."""
        return (self.columns[self.label].values or Counter()) if self.label else Counter()

    @property
    def long(self) -> int:
        """Characters that 99 % of the rows stay below."""
        return sorted(self.lengths)[int(0.99 * (len(self.lengths) - 1))] if self.lengths else 0

    @property
    def max_tokens(self) -> int:
        """Enough for 99 % of the rows, roughly: a power of two from 512 to 4096, which small models can read."""
        return min(4096, max(512, 1 << (self.long // CHARACTERS_A_TOKEN + 64).bit_length()))


def look_at(file: DataFile, text: str | None = None, label: str | None = None, answer: str | None = None) -> Look:
    """Read a file and find the recipe that suits it.

    Args:
        text, label, answer: columns, where they are known.

    Raises:
        UserError: it can't be read, has no such column, or doesn't tell what is asked and what answered.
    """
    opened = open_rows(file)
    columns: dict[str, Column] = {}
    talked = array("q")
    rows, shapes, wrong = 0, Counter[str](), Counter[str]()
    for row in opened.rows:
        rows += 1
        for name, value in row.values.items():
            columns.setdefault(name, Column()).add(value)
        if (found := find_shape(row.values)) is not None:
            shapes[f"{found[0].name} ({', '.join(found[1].values())})"] += 1
            turns, _, problems = turns_of(row.values)
            talked.append(sum(len(turn.message["content"]) for turn in turns))
            wrong.update(problems[:1])
    for given in (text, label, answer):
        if given is not None and given not in columns:
            raise unknown(f"column of {file}", given, columns)
    known: dict[str, Any] = {"file": file, "format": opened.format, "rows": rows, "columns": columns}
    if shapes and not (text or label or answer):
        return Look(**known, shape=" and ".join(shapes), lengths=talked, unreadable=wrong)
    is_guessed = False
    if not (text and (label or answer)):
        named_text, named_label = text_and_label(columns)
        is_guessed = not (text or named_text) or not (label or answer or named_label)
        text = text or named_text or _longest(columns, label)
        label = label or (None if answer else named_label or _fewest(columns, text))
    if text is None or not (label or answer):
        raise UserError(
            f"{file}: columns {', '.join(columns)}: which is asked, which answered? Say --text COLUMN with --label "
            "COLUMN for a class, or with --answer COLUMN for a text that is to be written"
        )
    texts = columns[text].lengths
    answers = columns[answer].lengths if answer else array("q", [0]) * len(texts)
    lengths = [asked + said for asked, said in zip(texts, answers, strict=False)]
    return Look(**known, text=text, label=label, answer=answer, is_guessed=is_guessed, lengths=lengths)


def _longest(columns: Mapping[str, Column], label: str | None) -> str | None:
    """The column with the longest texts."""
    sums = {name: sum(one.lengths) for name, one in columns.items() if name != label}
    return max(sums, key=lambda name: sums[name]) if any(sums.values()) else None


def _fewest(columns: Mapping[str, Column], text: str | None) -> str | None:
    """The column with the fewest values of those that may be labels."""
    some = {
        name: len(one.values)
        for name, one in columns.items()
        if name != text and one.values and 2 <= len(one.values) <= min(MOST_GUESSED, one.filled // ROWS_A_LABEL)
    }
    return min(some, key=lambda name: some[name]) if some else None
