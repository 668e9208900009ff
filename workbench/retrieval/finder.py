"""Which section of a document answers a question: learned from questions where there are some, searched where not."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

from workbench.errors import UserError
from workbench.retrieval.index import Index, terms
from workbench.retrieval.passages import Passage

# A Chinese character, or a word of any other writing with its apostrophe.
TOKEN = r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+(?:['’]\w+)?"
# Of the support vector machine: what a wrong training question costs beside the size of the weights.
COST = 0.5


class SectionFinder:
    """Finds the section of a document that answers a question, and what was asked about it before.

    Customers hardly ever use the words of a document: a section that questions are known of is recognised by them, with
    a linear support vector machine (Joachims 1998, doi:10.1007/BFb0026683) on words, their stems and pieces of them. A
    section that nobody has asked about yet can be found by its own words only: where the search of all sections finds
    such a one first, that is taken.

    Args:
        sections: one passage for each section, see `read_sections`.
        asked: questions and the `section` of the passage that answers each; with pairs of two sections at least.

    Raises:
        UserError: two passages of one section, a question's section is none of `sections`, or fewer than two sections
            have a question.
    """

    def __init__(self, sections: Sequence[Passage], asked: Iterable[tuple[str, str]]) -> None:
        self._sections = {passage.section: passage for passage in sections}
        if len(self._sections) < len(sections):
            raise UserError("several passages belong to one section: give one for each, as read_sections does")
        self._asked = list(asked)
        self._places = {text: number for number, (text, _) in enumerate(self._asked)}
        self._known: dict[str, list[int]] = {}
        self._by_section: dict[str, Any] = {}  # their vectors, and what was found: each is asked for again and again
        self._nearest: dict[tuple[str, str], Sequence[int]] = {}
        for number, (_, section) in enumerate(self._asked):
            self._known.setdefault(section, []).append(number)
        if strangers := sorted(self._known.keys() - self._sections.keys()):
            raise UserError(f"questions belong to sections that the document doesn't have: {', '.join(strangers[:3])}")
        if len(self._known) < 2:
            raise UserError(
                f"questions of {len(self._known)} section(s) are known: to tell sections apart it takes those of two"
            )

    def find(self, question: str) -> Passage:
        """The section that answers `question`."""
        searched = self._index.nearest(question, 1)
        if searched and searched[0].section not in self._known:
            return searched[0]
        return self._sections[str(self._classifier.predict(self._vector(question))[0])]

    def asked_before(self, question: str, section: str) -> Sequence[int]:
        """The places in `asked` of all questions about a section, the nearest to `question` first.

        Nearness is the cosine of what the sections are told apart by.
        """
        import numpy as np

        if (question, section) not in self._nearest:
            known = self._known.get(section, [])
            if section not in self._by_section:
                self._by_section[section] = self._vectors[known]
            nearness = (self._by_section[section] @ self._vector(question).T).toarray()[:, 0]
            self._nearest[question, section] = [known[place] for place in np.argsort(-nearness, kind="stable")]
        return self._nearest[question, section]

    def _vector(self, question: str) -> Any:
        """Of one question, (1, features); of a known one it is there already."""
        number = self._places.get(question)
        return self._features.transform([question]) if number is None else self._vectors[number]

    @cached_property
    def _index(self) -> Index:
        return Index(list(self._sections.values()))

    @cached_property
    def _features(self) -> Any:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_union

        return make_union(
            TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=TOKEN),
            TfidfVectorizer(sublinear_tf=True, analyzer=_stems),
            TfidfVectorizer(sublinear_tf=True, ngram_range=(2, 5), analyzer="char_wb"),
        ).fit([text for text, _ in self._asked])

    @cached_property
    def _vectors(self) -> Any:
        """Of the questions that are known, (questions, features), sparse."""
        return self._features.transform([text for text, _ in self._asked]).tocsr()

    @cached_property
    def _classifier(self) -> Any:
        from sklearn.svm import LinearSVC

        return LinearSVC(C=COST, random_state=0).fit(self._vectors, [section for _, section in self._asked])


def _stems(text: str) -> list[str]:
    """Stems of words without stop words, and pairs of them."""
    words = list(terms(text))
    return [*words, *map(" ".join, pairwise(words))]
