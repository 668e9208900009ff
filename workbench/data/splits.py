"""Reading every split of a recipe: rows checked, made into examples, training examples deduplicated."""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from workbench.data.examples import Example, MakeExamples
from workbench.data.pairs import EXAMPLES_SCHEMA, Examples
from workbench.data.store import Store
from workbench.errors import collected
from workbench.sources import Fingerprint, Source, read_rows

# Places that a message about leaked examples names.
PLACES_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Examples by split.

    Attributes:
        examples: split name -> examples, in the order of the source; they lie on disk.
        repeated: training examples left out because the same question and answer stood before.
        leaked: training examples left out because their question stands in another split. Questions are the same
            where all messages of the prompt are, the system's too.
        fingerprints: split name -> what its rows were, see `workbench.sources.Fingerprint`.
    """

    examples: Mapping[str, Examples]
    repeated: int = 0
    leaked: int = 0
    fingerprints: Mapping[str, str] = field(default_factory=dict)


def load_splits(
    data: Mapping[str, Source],
    examples: MakeExamples | Mapping[str, MakeExamples],
    limit: int | None = None,
    allow_leaks: Sequence[str] = (),
    store: Store | None = None,
    prefix: str = "",
) -> Splits:
    """Read, check and deduplicate every split; in memory are a few numbers for each example.

    Args:
        data: split name -> source, see `workbench.sources.read_rows`.
        examples: row -> examples, or such a function for each split; a ValueError of its names what is wrong with
            the row.
        limit: at most so many examples of each split, the first ones.
        allow_leaks: evaluated splits that may share examples with the validation split.
        store: where the examples go, all that were read; None takes a temporary one.
        prefix: they are called `<prefix><split>.examples` there.

    Raises:
        UserError: a source can't be read, rows are wrong, or validation examples stand in an evaluated split; every
            wrong row is named by file and line.
    """
    store = store or Store.temporary()
    problems: list[str] = []
    read: dict[str, _Split] = {}
    for split, source in data.items():
        make = examples[split] if isinstance(examples, Mapping) else examples
        read[split] = _Split(source, make, problems, store, f"{prefix}{split}.examples")
    if problems:
        raise collected("data", problems)
    indices = {split: np.arange(len(one)) for split, one in read.items()}
    train = read["train"]
    kept = np.sort(np.unique(train.answers, return_index=True)[1])
    leaked = np.zeros(len(kept), dtype=bool)
    for split, one in read.items():
        if split != "train":
            leaked |= np.isin(train.questions[kept], one.questions)
    indices["train"] = kept[~leaked]
    problems = _validation_leaks(read, allow_leaks)
    problems += [f"split {split!r} has no examples left" for split in read if not len(indices[split])]
    if problems:
        raise collected("data", problems)
    return Splits(
        examples={split: one.at(indices[split][:limit]) for split, one in read.items()},
        repeated=len(train) - len(kept),
        leaked=int(leaked.sum()),
        fingerprints={split: one.fingerprint for split, one in read.items()},
    )


def _validation_leaks(read: Mapping[str, "_Split"], allowed: Sequence[str]) -> list[str]:
    """What is wrong with evaluated splits that share examples with the validation split."""
    validation = read["validation"]
    problems = []
    for split, one in read.items():
        if split in ("train", "validation", *allowed):
            continue
        shared = np.flatnonzero(np.isin(validation.answers, one.answers))
        if not len(shared):
            continue
        firsts = [np.flatnonzero(one.answers == validation.answers[here])[0] for here in shared[:PLACES_SHOWN]]
        places = [f"{validation.place(h)} is {one.place(t)}" for h, t in zip(shared, firsts, strict=False)]
        more = ", ..." * (len(shared) > PLACES_SHOWN)
        problems.append(
            f"{len(shared)} of {len(validation)} validation examples stand in the evaluated split {split!r} too, with "
            f"the same answer ({', '.join(places)}{more}): a model that was chosen by them would be scored by them. "
            f"Leave them out of one of the two, or allow it in the recipe: allow_leaks=({split!r},)"
        )
    return problems


class _Split:
    """The examples of a source, and what tells them apart as numbers of 64 bits."""

    def __init__(self, source: Source, make: MakeExamples, problems: list[str], store: Store, name: str) -> None:
        self._ids, self._questions, self._answers = array("q"), array("q"), array("q")
        fingerprint = Fingerprint(source)
        self._dataset = store.write(name, self._records(source, make, fingerprint, problems), EXAMPLES_SCHEMA)
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

    def place(self, index: int | np.integer) -> str:
        """Where the row of an example stands."""
        return str(self._dataset[int(index)]["place"])

    def at(self, indices: np.ndarray) -> Examples:
        """The examples at `indices`, in their order."""
        return Examples(self._dataset, indices)

    def _records(
        self, source: Source, make: MakeExamples, fingerprint: Fingerprint, problems: list[str]
    ) -> Iterator[dict[str, str]]:
        for row in read_rows(source):
            fingerprint.add(row)
            try:
                made = list(make(row.values))
                lines = [_line(example) for example in made]
            except (ValueError, KeyError, TypeError) as error:
                what = f"no column {error}" if isinstance(error, KeyError) else error
                problems.append(f"{row.place}: {what}")
                continue
            for example, line in zip(made, lines, strict=True):
                right = (example.completion,) * bool(example.completion) if example.labels is None else example.labels
                if example.choices and (new := set(right) - set(example.choices)):
                    listed = ", ".join(map(repr, sorted(new)))
                    problems.append(f"{row.place}: {listed} is none of the choices of {example.id!r}")
                if not example.completion:
                    problems.append(f"{row.place}: {example.id!r} has no answer")
                question = example.folded_prompt
                self._ids.append(hash(example.id))
                self._questions.append(hash(question))
                self._answers.append(hash((question, example.completion)))
                yield {"example": line, "place": row.place}

    def _repeated_ids(self) -> list[str]:
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
                problems.append(f"{place}: id {name!r} stands at {before} already")
        return problems


def _line(example: Example) -> str:
    """An example as it is kept.

    Raises:
        ValueError: its id is no text, its references are not several texts, or a text of it is no Unicode.
        TypeError: it holds something that JSON can't.
    """
    if not isinstance(example.id, str):
        raise ValueError(f"id {example.id!r} is no text")
    further: Any = example.references
    if not isinstance(further, (list, tuple)) or not all(isinstance(text, str) for text in further):
        raise ValueError(f"references of {example.id!r} must be a tuple of texts, not {further!r}")
    line = example.to_json()
    line.encode()
    return line
