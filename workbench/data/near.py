"""Texts that are nearly the same: found by MinHash (Broder 1997) and locality-sensitive hashing, compared exactly."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.data.examples import Example
from workbench.data.pairs import Examples
from workbench.data.store import OnDisk
from workbench.results import NearCopies

if TYPE_CHECKING:
    from datasketch import MinHash

# Letters of a shingle: what a text is made of here, whatever its language.
SHINGLE = 5
# From this share of shingles in common (Jaccard similarity) on two texts are near copies.
NEAR = 0.8
# Hashes of a text; those that are alike in so many that they may be near are compared.
PERMUTATIONS, MAY_BE = 64, 0.7
# A text is compared with so many of those that may be near it; of a split so many are looked at, evenly spread.
COMPARED, MOST = 50, 20_000
SHOWN = 3
# Shingles of more than this share of some questions of each split, and of more than a few of them, tell nothing.
USUAL, FEW, LOOKED_AT = 0.1, 3, 300


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What near copies are looked for by.

    Attributes:
        question, context: the prompt's messages but the system's, and those of the system: copies are alike in both.
        answer: that is trained on.
        source: what the example is a part of: turns of one conversation are not held against each other.
        id: of the example.
    """

    question: str
    answer: str
    context: str = ""
    source: str = ""
    id: str = ""


@dataclass
class _Index:
    """The examples of a split, one for all that are near copies with the same answer, by what they look like.

    Attributes:
        usual: shingles that tell nothing, see `_usual`.
    """

    texts: Sequence[Asked]
    usual: frozenset[str]
    lsh: Any = field(init=False)

    def __post_init__(self) -> None:
        from datasketch import MinHashLSH

        # Keys are hashed, so that they are numbers of a few bytes.
        self.lsh = MinHashLSH(threshold=MAY_BE, num_perm=PERMUTATIONS, hashfunc=hash)

    def nearest(self, one: Asked, own: set[str], sketch: "MinHash") -> tuple[int, float, bool] | None:
        """A near copy of `one`, if there is any with the same answer: its number, similarity, and whether it has."""
        best: tuple[bool, float, int] | None = None
        for number in sorted(self.lsh.query(sketch))[:COMPARED]:
            other = self.texts[number]
            if one.source and one.source == other.source:
                continue
            # Alike as a whole, and in what is not the same in many: of a few letters that are left little can be said.
            similarity = min(
                in_common(own, telling(other.question, self.usual)),
                in_common(shingles(one.question), shingles(other.question)),
            )
            if similarity >= NEAR and _alike(one.context, other.context):
                best = max(best or (False, 0.0, 0), (folded(one.answer) == folded(other.answer), similarity, number))
        return None if best is None else (best[2], best[1], best[0])


def folded(text: str) -> str:
    """Without upper case, and with single blanks."""
    return " ".join(text.lower().split())


def shingles(text: str) -> set[str]:
    """All runs of `SHINGLE` letters of a folded text; a shorter text is one."""
    text = folded(text)
    return {text[start : start + SHINGLE] for start in range(max(1, len(text) - SHINGLE + 1))}


def telling(text: str, usual: frozenset[str]) -> set[str]:
    """The shingles of a text that are not usual; of one that has no others, the whole text."""
    return (shingles(text) - usual) or {folded(text)}


def _usual(splits: Mapping[str, Sequence[Asked]]) -> frozenset[str]:
    """Shingles that many questions have, such as those of an instruction that stands around each: they tell nothing."""
    counts, looked_at = Counter[str](), 0
    for texts in splits.values():
        for number in range(0, len(texts), max(1, len(texts) // LOOKED_AT)):
            counts.update(shingles(texts[number].question))
            looked_at += 1
    return frozenset(shingle for shingle, count in counts.items() if count > max(FEW, USUAL * looked_at))


def in_common(one: set[str], other: set[str]) -> float:
    """Jaccard similarity."""
    return len(one & other) / len(one | other)


def _alike(one: str, other: str) -> bool:
    return one == other or in_common(shingles(one), shingles(other)) >= NEAR


@dataclass(frozen=True)
class NearPair:
    """An example that has a near copy in a split before its own, or before it in its own.

    Attributes:
        split, number: where it stands.
        of, other: where the copy stands.
        similarity: share of telling shingles in common.
        same_answer: whether the copy has the same answer.
    """

    split: str
    number: int
    of: str
    other: int
    similarity: float
    same_answer: bool


def near_pairs(splits: Mapping[str, Sequence[Asked]]) -> Iterator[NearPair]:
    """The near copies in some splits: of each example one at most in each split, if possible with the same answer.

    Copies far above `NEAR` are hardly ever missed.

    Args:
        splits: by name, in the order in which they are looked through; each example is read a few times.
    """
    import xxhash
    from datasketch import MinHash

    usual = _usual(splits)
    indices: dict[str, _Index] = {}
    for split, texts in splits.items():
        indices[split] = _Index(texts, usual)
        for number, one in enumerate(texts):
            own = telling(one.question, usual)
            sketch = MinHash(num_perm=PERMUTATIONS, hashfunc=xxhash.xxh32_intdigest)
            sketch.update_batch([shingle.encode() for shingle in own])
            stands_there = False
            for of, index in indices.items():
                if found := index.nearest(one, own, sketch):
                    pair = NearPair(split, number, of, *found)
                    stands_there = of == split and pair.same_answer
                    yield pair
            if not stands_there:
                indices[split].lsh.insert(number, sketch)


class AskedOnDisk(OnDisk[Asked]):
    """Examples of a source as they are looked through; at most `MOST`, evenly spread.

    Attributes:
        indices: of them in the source, (examples,).
    """

    def __init__(self, examples: Examples) -> None:
        step = max(1.0, len(examples) / MOST)
        some = (np.arange(min(len(examples), MOST)) * step).astype(int)
        self.indices = examples.indices[some]
        super().__init__(examples.dataset.select(some) if step > 1 else examples.dataset, _asked)


def _asked(records: Sequence[Mapping[str, Any]]) -> list[Asked]:
    found = []
    for record in records:
        example = Example.from_json(record["example"])
        context = " ".join(message["content"] for message in example.prompt if message["role"] == "system")
        own = {"question": example.question, "answer": example.completion, "source": example.source, "id": example.id}
        found.append(Asked(context=context, **own))
    return found


def summaries(
    pairs: Sequence[NearPair], looked_at: Mapping[str, int], name: Callable[[str, int], str]
) -> list[NearCopies]:
    """What was found, for each two splits.

    Args:
        looked_at: split -> examples of it that were.
        name: split and number of an example -> its id.
    """
    found = []
    for split, of in dict.fromkeys((pair.split, pair.of) for pair in pairs):
        some = [pair for pair in pairs if (pair.split, pair.of) == (split, of)]
        first = sorted(some, key=lambda pair: (not pair.same_answer, -pair.similarity, pair.number))[:SHOWN]
        found.append(
            NearCopies(
                split=split,
                of=of,
                examples=len(some),
                same_answer=sum(pair.same_answer for pair in some),
                looked_at=sum(looked_at[one] for one in {split, of}),
                shown=[(name(split, p.number), name(of, p.other), round(p.similarity, 2)) for p in first],
            )
        )
    return found
