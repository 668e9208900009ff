"""Reading every split of a recipe: rows checked, made into examples, training examples deduplicated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from workbench.data.division import divide, groups_of
from workbench.data.examples import MakeExamples
from workbench.data.pairs import Examples
from workbench.data.reading import Found, ReadSource
from workbench.data.store import Store
from workbench.errors import PLACES_SHOWN, Problem, collected
from workbench.sources import Source

# What one source for all splits is called.
WHOLE = "data"


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Examples by split.

    Attributes:
        examples: split name -> examples, in the order of the source; they lie on disk.
        repeated: training examples left out because the same question and answer stood before.
        leaked: training examples left out because their question stands in another split. Questions are the same
            where all messages of the prompt are, the system's too.
        fingerprints: split name -> what its rows were, see `workbench.sources.Fingerprint`; of splits that were made
            of one source, with the seed.
        names: split name -> what the examples are called in the store.
        sources: split name, or "data" for one source of all splits -> its fingerprint.
        found: the same -> what the source was found to be.
    """

    examples: Mapping[str, Examples]
    repeated: int = 0
    leaked: int = 0
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    found: Mapping[str, Found] = field(default_factory=dict)


def load_splits(
    data: Mapping[str, Source] | Source,
    examples: MakeExamples | Mapping[str, MakeExamples],
    limit: int | None = None,
    allow_leaks: Sequence[str] = (),
    store: Store | None = None,
    prefix: str = "",
    seed: int = 0,
) -> Splits:
    """Read, check and deduplicate every split; in memory are a few numbers for each example.

    Args:
        data: split name -> source, see `workbench.sources.read_rows`; or one source, of which train, validation and
            test are made, see `workbench.data.division`.
        examples: row -> examples, or such a function for each split; an exception of its names what is wrong with
            the row.
        limit: at most so many examples of each split, the first ones.
        allow_leaks: evaluated splits that may share examples with the validation split.
        store: where the examples go, all that were read; None takes a temporary one.
        prefix: they are called `<prefix><split>.examples` there.
        seed: by which one source is divided.

    Raises:
        UserError: a source can't be read, rows are wrong, or validation examples stand in an evaluated split; every
            wrong row is named by file and line.
    """
    store = store or Store.temporary()
    problems: list[str | Problem] = []
    read: dict[str, ReadSource] = {}
    is_divided = not isinstance(data, Mapping)
    for split, source in (data if isinstance(data, Mapping) else {WHOLE: data}).items():
        make = examples[split] if isinstance(examples, Mapping) else examples
        read[split] = ReadSource(source, make, problems, store, f"{prefix}{split}.examples", is_divided)
    if problems:
        raise collected("data", problems)
    if isinstance(data, Mapping):
        indices, repeated, leaked = _deduplicated(read, allow_leaks)
        fingerprints = {split: one.fingerprint for split, one in read.items()}
    else:
        indices, repeated = _divided(read[WHOLE], seed)
        leaked = 0
        fingerprints = {split: f"{read[WHOLE].fingerprint}:{split}:seed={seed}" for split in indices}
    of = {split: read.get(split) or read[WHOLE] for split in indices}
    return Splits(
        examples={split: of[split].at(some[:limit]) for split, some in indices.items()},
        repeated=repeated,
        leaked=leaked,
        fingerprints=fingerprints,
        names={split: one.name for split, one in of.items()},
        sources={name: one.fingerprint for name, one in read.items()},
        found={name: one.found for name, one in read.items()},
    )


def _divided(whole: ReadSource, seed: int) -> tuple[dict[str, np.ndarray], int]:
    """Indices of the splits that are made of one source, and how many examples were repeated."""
    kept = _first_of_each(whole.answers)
    groups = groups_of(whole.sources[kept], whole.questions[kept])
    divided = divide(groups, whole.labels[kept], seed)
    return {split: kept[some] for split, some in divided.items()}, len(whole) - len(kept)


def _first_of_each(numbers: np.ndarray) -> np.ndarray:
    return np.sort(np.unique(numbers, return_index=True)[1])


def _deduplicated(read: Mapping[str, ReadSource], allow_leaks: Sequence[str]) -> tuple[dict[str, np.ndarray], int, int]:
    """Indices of each split, and how many training examples were repeated and leaked.

    Raises:
        UserError: validation examples stand in an evaluated split, or nothing is left of a split.
    """
    indices = {split: np.arange(len(one)) for split, one in read.items()}
    train = read["train"]
    kept = _first_of_each(train.answers)
    leaked = np.zeros(len(kept), dtype=bool)
    for split, one in read.items():
        if split != "train":
            leaked |= np.isin(train.questions[kept], one.questions)
    indices["train"] = kept[~leaked]
    problems = _validation_leaks(read, allow_leaks)
    problems += [f"split {split!r} has no examples" for split, one in read.items() if not len(one)]
    if len(train) and not len(indices["train"]):
        problems.append(f"nothing is left to train on: the questions of all {len(kept)} examples stand in other splits")
    if problems:
        raise collected("data", problems)
    return indices, len(train) - len(kept), int(leaked.sum())


def _validation_leaks(read: Mapping[str, ReadSource], allowed: Sequence[str]) -> list[str]:
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
