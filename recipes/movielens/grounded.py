"""Is what a text states in what the model was given?

Checked is what can be told by its form: numbers, names, and words of a closed list such as genres. A statement made of
other words is not seen. Where the model was given records, lines such as `Title (1961); Drama; by Odile Vassarand`, a
fact must stand in the record of the title that it is told with: a right fact about the wrong film is wrong.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from workbench.evaluation import Metric, Prediction
from workbench.evaluation.metrics.choice import percent

NUMBER_WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
COUNTED = re.compile(rf"\b({'|'.join(NUMBER_WORDS)}) (?:awards?|oscars?|nominations?)\b", re.IGNORECASE)
# Kinds of films, with other words for the same; not those that mean much else besides, such as "family".
KINDS = {
    "action": (), "adventure": ("adventures",), "animation": ("animated", "cartoon"), "comedy": ("comedies", "comic"),
    "documentary": ("documentaries",), "drama": ("dramas",), "fantasy": ("fantasies",), "film-noir": ("noir",),
    "horror": (), "musical": ("musicals",), "mystery": ("mysteries",), "romance": ("romances", "romantic"),
    "sci-fi": (), "thriller": ("thrillers",), "western": ("westerns",),
}  # fmt: skip
OF_KIND = {word: kind for kind, others in KINDS.items() for word in (kind, *others)}
# What comes from a country is named after it.
NAMED_AFTER = {
    "american": ("states", "usa"), "argentine": ("argentina",), "argentinian": ("argentina",),
    "australian": ("australia",), "austrian": ("austria",), "belgian": ("belgium",), "brazilian": ("brazil",),
    "british": ("kingdom", "uk", "britain"), "canadian": ("canada",), "chinese": ("china",), "cuban": ("cuba",),
    "czech": ("czech", "czechoslovakia"), "danish": ("denmark",), "dutch": ("netherlands",), "egyptian": ("egypt",),
    "english": ("kingdom", "england"), "finnish": ("finland",), "french": ("france",), "german": ("germany",),
    "greek": ("greece",), "hungarian": ("hungary",), "indian": ("india",), "iranian": ("iran",), "irish": ("ireland",),
    "italian": ("italy",), "japanese": ("japan",), "korean": ("korea",), "mexican": ("mexico",),
    "norwegian": ("norway",), "polish": ("poland",), "portuguese": ("portugal",), "russian": ("russia", "soviet"),
    "scottish": ("kingdom", "scotland"), "senegalese": ("senegal",), "soviet": ("union", "russia"),
    "spanish": ("spain",), "swedish": ("sweden",), "swiss": ("switzerland",), "taiwanese": ("taiwan",),
    "turkish": ("turkey",), "britain": ("kingdom", "uk"), "america": ("states", "usa"),
}  # fmt: skip
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
RECORD = re.compile(r"^(?P<title>[^;\n]+?)(?: \(\d{4}\))?; .+$", re.MULTILINE)
SENTENCE = re.compile(r"(?<=[.!?:;—–])[\"'”’)]*\s+")
CLAUSE = re.compile(r",\s+|\s(?=and |but |while |so |than )")
PRIZES = {"award": ("award", "awards"), "awards": ("award", "awards"), "oscar": ("oscar", "oscars")}
SENTENCE_END = re.compile(r"[.!?:;—–\n]\W*$")


def unfounded(text: str, source: str) -> list[str]:
    """Numbers, names and kinds in `text` that do not stand in `source`.

    >>> unfounded("From 1962, a comedy by Odile Vassarand.", "Ferry (1961), Drama, by Odile Vassarand")
    ['1962', 'comedy']
    """
    found = []
    counted = {match.start() for match in COUNTED.finditer(text)}
    for start, end, told_of in _parts(text, source):
        facts = _facts(told_of)
        for match in WORD.finditer(text, start, end):
            if not _stands(text, match, facts, match.start() in counted):
                found.append(match[0])
    return found


@dataclass(frozen=True)
class _Facts:
    """What a piece of source holds: its words, the kinds of films, and its numbers with the decades of years."""

    words: frozenset[str]
    kinds: frozenset[str]
    numbers: frozenset[str]


@lru_cache(maxsize=256)
def _facts(source: str) -> _Facts:
    words = {_folded(match[0]) for match in WORD.finditer(source)}
    words |= {part for word in words for part in word.split("-")}
    numbers = {number for word in words for number in re.findall(r"\d+", word)}
    numbers |= {f"{number[:3]}0" for number in numbers if len(number) == 4}
    return _Facts(frozenset(words), frozenset(OF_KIND[word] for word in words if word in OF_KIND), frozenset(numbers))


def _stands(text: str, match: re.Match[str], facts: _Facts, counted: bool) -> bool:
    word, known = _folded(match[0]), facts.words
    if counted:
        return word in known or str(NUMBER_WORDS.index(word) + 1) in facts.numbers
    if digits := re.findall(r"\d+", word):
        return all(number in facts.numbers for number in digits)
    if word in OF_KIND:
        return OF_KIND[word] in facts.kinds or word in known
    if word in NAMED_AFTER:
        return word in known or any(country in known for country in NAMED_AFTER[word])
    if word in PRIZES:
        return not known.isdisjoint(PRIZES[word])
    return not {word, word.partition("-")[0]}.isdisjoint(known) or not _is_name(text, match)


def _parts(text: str, source: str) -> Iterator[tuple[int, int, str]]:
    """Stretches of `text` outside of titles, and the part of `source` that each must stand in.

    A sentence that names one film tells of it, and of several each clause of the one it names. A sentence that names
    none goes on about the films before it, or tells of the last one, which is recommended.
    """
    records = {match["title"]: match[0] for match in RECORD.finditer(source)}
    if len(records) < 2:
        yield 0, len(text), source
        return
    titles = "|".join(map(re.escape, sorted(records, key=len, reverse=True)))
    by_name = {title.lower(): title for title in records}
    named = [
        (match.start(), match.end(), by_name[match[0].lower()])
        for match in re.finditer(rf"\b(?:{titles})(?!\w)", text, re.IGNORECASE)
    ]
    masked = text
    for start, end, _ in named:
        masked = masked[:start] + "x" * (end - start) + masked[end:]
    last = list(records)[-1]
    before: list[str] = list(records)
    for start, end in _pieces(SENTENCE, masked, 0, len(text)):
        here = _named_in(named, start, end)
        sentence = here or list(dict.fromkeys([*before, last]))
        for first, behind in _pieces(CLAUSE, masked, start, end) if len(here) > 1 else [(start, end)]:
            told_of = "\n".join(records[title] for title in _named_in(named, first, behind) or sentence)
            at = first
            for title_start, title_end, _ in (one for one in named if first <= one[0] < behind):
                yield at, title_start, told_of
                at = title_end
            yield at, behind, told_of
        before = sentence


def _named_in(named: Sequence[tuple[int, int, str]], start: int, end: int) -> list[str]:
    return list(dict.fromkeys(title for first, _, title in named if start <= first < end))


def _pieces(border: re.Pattern[str], text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    for match in border.finditer(text, start, end):
        yield start, match.start()
        start = match.end()
    yield start, end


def _is_name(text: str, match: re.Match[str]) -> bool:
    """Whether a word has a capital though it doesn't begin a sentence; "I" and its kin are none."""
    if not match[0][0].isupper() or re.split("['’]", match[0])[0] == "I":
        return False
    before = text[: match.start()].rstrip("\"'“‘( ")
    return bool(before) and not SENTENCE_END.search(before)


def _folded(word: str) -> str:
    return word.lower().replace("’", "'").removesuffix("'s")


def grounded_statistics(answers: Sequence[Prediction]) -> np.ndarray:
    """1 where nothing is unfounded and something is said, and 1: (answers, 2)."""
    return np.array(
        [(bool(answer.prediction) and not unfounded(answer.prediction, answer.prompt), 1.0) for answer in answers]
    ).reshape(-1, 2)


GROUNDED = Metric(
    name="grounded",
    title="true to the record",
    summary="share of texts all of whose numbers, names and genres stand in the record of the film told of, "
    "in percent.",
    statistics=grounded_statistics,
    score=percent,
    higher_is_better=True,
    worst=0,
    best=100,
    signature=lambda answers: (
        "numbers, capitalised names, genre words and awards of the answer, looked up in the prompt, "
        "in the record of the film that the clause or sentence names"
    ),
)
