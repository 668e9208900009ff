"""The index: BM25 (Robertson and Zaragoza 2009) by bm25s, over words, and over pairs of characters in Chinese."""

import logging
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from workbench.retrieval.passages import Passage

WORD = re.compile(r"[\u3400-\u9fff]+|[^\W\u3400-\u9fff]+(?:['’][^\W\d_]+)?")
CHINESE = re.compile(r"[\u3400-\u9fff]")


class Index:
    """Finds passages.

    Args:
        passages: at least one.
    """

    def __init__(self, passages: Sequence[Passage]) -> None:
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it says all that it does
        self.passages = list(passages)
        self._index = bm25s.BM25(k1=1.2, b=0.75)
        # The short name of a section is another wording of its title.
        documents = [list(terms(f"{p.section.replace('_', ' ')} {p.title} {p.text}")) for p in self.passages]
        self._index.index(documents, show_progress=False)

    def nearest(self, question: str, count: int) -> list[Passage]:
        """The `count` passages nearest to `question`, the nearest first; fewer, if others share no word with it."""
        asked = list(terms(question))
        if not asked:
            return []
        most = min(count, len(self.passages))
        numbers, scores = self._index.retrieve([asked], k=most, show_progress=False)
        return [self.passages[n] for n, score in zip(numbers[0], scores[0], strict=True) if score > 0]


def terms(text: str) -> Iterator[str]:
    """What is compared: stems of words without stop words; Chinese text in overlapping pairs of characters."""
    for match in WORD.finditer(text.lower().replace("’", "'")):
        word = match[0]
        if CHINESE.match(word):
            yield from (word[i : i + 2] for i in range(max(1, len(word) - 1)))
        elif word not in _stop_words():
            yield _stemmed(word)


@cache
def _stop_words() -> frozenset[str]:
    from bm25s.stopwords import STOPWORDS_EN_PLUS

    return frozenset(STOPWORDS_EN_PLUS)


@cache
def _stemmer() -> Any:
    from nltk.stem.snowball import EnglishStemmer

    return EnglishStemmer()


@cache
def _stemmed(word: str) -> str:
    return str(_stemmer().stem(word))
