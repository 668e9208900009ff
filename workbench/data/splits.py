"""Reading every split of a recipe: rows checked, made into examples, training examples deduplicated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from workbench.data.division import divide, groups_of
from workbench.data.examples import MakeExamples
from workbench.data.near import AskedOnDisk, NearPair, near_pairs, summaries
from workbench.data.pairs import Examples
from workbench.data.reading import Found, ReadSource
from workbench.data.store import Store
from workbench.errors import PLACES_SHOWN, Problem, collected
from workbench.results import NearCopies
from workbench.sources import Source

# What one source for all splits is called.
WHOLE = "data"


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Examples by split.

    Attributes:
        examples: split name -> examples, in the order of the source; they lie on disk.
        repeated: training examples left out because the same question and answer stood before.
        leaked: training examples left out because their question stands in another split, or nearly so with the same
            answer. Questions are the same where all messages of the prompt are, the system's too.
        near: what was found of near copies, before anything was left out for it.
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
    near: Sequence[NearCopies] = ()


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
        allow_leaks: evaluated splits that may share examples with those of training, which are left out there, and of
            validation.
        store: where the examples go, all that were read; None takes a temporary one.
        prefix: they are called `<prefix><split>.examples` there.
        seed: by which one source is divided.

    Raises:
        UserError: a source can't be read, rows are wrong, or examples of training or validation stand in an evaluated
            split; every wrong row is named by file and line.
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
        indices, near, repeated, leaked = _deduplicated(read, allow_leaks)
        fingerprints = {split: one.fingerprint for split, one in read.items()}
    else:
        indices, near, repeated = _divided(read[WHOLE], seed)
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
        near=near,
    )


def _divided(whole: ReadSource, seed: int) -> tuple[dict[str, np.ndarray], list[NearCopies], int]:
    """Indices of the splits that are made of one source, near copies in them, and how many examples were repeated.

    Near copies with the same answer stand in one split.
    """
    kept = _first_of_each(whole.answers)
    asked = AskedOnDisk(whole.at(kept))
    pairs = list(near_pairs({WHOLE: asked}))
    alike = np.arange(len(whole))
    for pair in pairs:
        if pair.same_answer:
            alike[asked.indices[pair.number]] = alike[asked.indices[pair.other]]
    groups = groups_of(whole.sources[kept], whole.questions[kept], alike[kept])
    divided = {split: kept[some] for split, some in divide(groups, whole.labels[kept], seed).items()}
    split_of = {int(index): split for split, some in divided.items() for index in some}
    placed = [
        replace(pair, split=split_of[asked.indices[pair.number]], of=split_of[asked.indices[pair.other]])
        for pair in pairs
    ]
    found = summaries(placed, {split: len(some) for split, some in divided.items()}, lambda _, n: asked[n].id)
    return divided, found, len(whole) - len(kept)


def _first_of_each(numbers: np.ndarray) -> np.ndarray:
    return np.sort(np.unique(numbers, return_index=True)[1])


def _deduplicated(
    read: Mapping[str, ReadSource], allow_leaks: Sequence[str]
) -> tuple[dict[str, np.ndarray], list[NearCopies], int, int]:
    """Indices of each split, near copies in them, and how many training examples were repeated and leaked.

    Raises:
        UserError: examples of training or validation stand in an evaluated split, or nothing is left of a split.
    """
    if empty := [f"split {split!r} has no examples" for split, one in read.items() if not len(one)]:
        raise collected("data", empty)
    indices = {split: np.arange(len(one)) for split, one in read.items()}
    train = read["train"]
    indices["train"] = kept = _first_of_each(train.answers)
    order = [split for split in read if split not in ("train", "validation")] + ["validation", "train"]
    asked = {split: AskedOnDisk(read[split].at(indices[split])) for split in order}
    near = list(near_pairs(asked))
    leaks = {
        (split, of): _leaks(read, asked, near, split, of)
        for place, split in enumerate(order)
        for of in order[:place]
        if split in ("train", "validation")
    }
    if problems := [
        _told(read, split, of, pairs)
        for (split, of), pairs in leaks.items()
        if pairs and of not in ("validation", *allow_leaks)
    ]:
        raise collected("data", problems)
    leaked = np.isin(kept, [here for (split, _), pairs in leaks.items() if split == "train" for here, _ in pairs])
    for split, one in read.items():
        if split != "train":
            leaked |= np.isin(train.questions[kept], one.questions)
    indices["train"] = kept[~leaked]
    if not len(indices["train"]):
        raise collected(
            "data", [f"nothing is left to train on: the questions of all {len(kept)} examples stand in other splits"]
        )
    found = summaries(near, {split: len(one) for split, one in asked.items()}, lambda split, n: asked[split][n].id)
    return indices, found, len(train) - len(kept), int(leaked.sum())


def _leaks(
    read: Mapping[str, ReadSource], asked: Mapping[str, AskedOnDisk], near: Sequence[NearPair], split: str, of: str
) -> list[tuple[int, int]]:
    """Examples of a split that stand in another one with the same answer, or nearly so: their indices in both."""
    here, there = read[split], read[of]
    first = {answer: index for index, answer in reversed(list(enumerate(there.answers.tolist())))}
    shared = np.flatnonzero(np.isin(here.answers, there.answers))
    found = {int(index): first[int(here.answers[index])] for index in shared}
    for pair in near:
        if (pair.split, pair.of, pair.same_answer) == (split, of, True):
            found.setdefault(int(asked[split].indices[pair.number]), int(asked[of].indices[pair.other]))
    return sorted(found.items())


def _told(read: Mapping[str, ReadSource], split: str, of: str, pairs: Sequence[tuple[int, int]]) -> str:
    """What is wrong with an evaluated split that shares examples with another one."""
    places = [f"{read[split].place(here)} is {read[of].place(there)}" for here, there in pairs[:PLACES_SHOWN]]
    more = ", ..." * (len(pairs) > PLACES_SHOWN)
    why, kept = {
        "train": ("a model would be scored by what it was trained on", ", which leaves them out of training"),
        "validation": ("a model that was chosen by them would be scored by them", ""),
    }[split]
    name = {"train": "training"}.get(split, split)
    return (
        f"{len(pairs)} of {len(read[split])} {name} examples stand in the evaluated split {of!r} too, or nearly so, "
        f"with the same answer ({', '.join(places)}{more}): {why}. Leave them out of one of the two, or allow it in "
        f"the recipe: allow_leaks=({of!r},){kept}"
    )
