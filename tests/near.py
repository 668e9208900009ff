"""Texts that are nearly the same, found by their shared shingles."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import combinations

# Shared share of shingles from which two texts are nearly the same.
NEAR = 0.35


def shingles(text: str, length: int) -> set[str]:
    """All runs of `length` characters, however the text is spaced and written."""
    folded = " ".join(text.lower().split())
    return {folded[i : i + length] for i in range(max(1, len(folded) - length + 1))}


def near_pairs(splits: Mapping[str, Mapping[str, str]], length: int) -> list[tuple[str, str, float]]:
    """Texts of different splits that are nearly the same.

    Args:
        splits: split -> id -> text.
        length: of a shingle: five characters of an alphabet, three of Chinese.

    Returns:
        Both ids and the shared share (Jaccard).
    """
    marked = {split: {key: shingles(text, length) for key, text in texts.items()} for split, texts in splits.items()}
    found = []
    for left, right in combinations(marked, 2):
        holders: dict[str, list[str]] = defaultdict(list)
        for key, mine in marked[right].items():
            for shingle in mine:
                holders[shingle].append(key)
        for a, mine in marked[left].items():
            shared = Counter(_holding(mine, holders))
            for b, count in shared.items():
                share = count / (len(mine) + len(marked[right][b]) - count)
                if share > NEAR:
                    found.append((a, b, share))
    return found


def _holding(mine: set[str], holders: Mapping[str, list[str]]) -> Iterable[str]:
    for shingle in mine:
        yield from holders.get(shingle, ())
