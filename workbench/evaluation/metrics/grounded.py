"""Is what a text states in what the model was given?

Checked is what can be told by its form: numbers, names, and words of a closed list such as genres. A statement made of
other words, or a right fact about the wrong film, is not seen.
"""

import re
from collections.abc import Sequence

import numpy as np

from workbench.evaluation.answer import Answer
from workbench.evaluation.metrics.choice import percent
from workbench.evaluation.metrics.metric import Metric

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
SENTENCE_END = re.compile(r"[.!?:;—–\n]\W*$")


def unfounded(text: str, source: str) -> list[str]:
    """Numbers, names and kinds in `text` that do not stand in `source`.

    >>> unfounded("From 1962, a comedy by Odile Vassarand.", "Ferry (1961), Drama, by Odile Vassarand")
    ['1962', 'comedy']
    """
    known = {_folded(match[0]) for match in WORD.finditer(source)}
    known |= {part for word in known for part in word.split("-")}
    kinds = {OF_KIND[word] for word in known if word in OF_KIND}
    numbers = {number for word in known for number in re.findall(r"\d+", word)}
    numbers |= {f"{number[:3]}0" for number in numbers if len(number) == 4}  # a year's decade
    counted = {match.start() for match in COUNTED.finditer(text)}
    found = []
    for match in WORD.finditer(text):
        word = _folded(match[0])
        if match.start() in counted:
            right = word in known or str(NUMBER_WORDS.index(word) + 1) in numbers
        elif digits := re.findall(r"\d+", word):
            right = all(number in numbers for number in digits)
        elif word in OF_KIND:
            right = OF_KIND[word] in kinds or word in known
        elif word in NAMED_AFTER:
            right = word in known or any(country in known for country in NAMED_AFTER[word])
        else:
            right = not {word, word.partition("-")[0]}.isdisjoint(known) or not _is_name(text, match)
        if not right:
            found.append(match[0])
    return found


def _is_name(text: str, match: re.Match[str]) -> bool:
    """Whether a word has a capital though it doesn't begin a sentence; "I" and its kin are none."""
    if not match[0][0].isupper() or re.split("['’]", match[0])[0] == "I":
        return False
    before = text[: match.start()].rstrip("\"'“‘( ")
    return bool(before) and not SENTENCE_END.search(before)


def _folded(word: str) -> str:
    return word.lower().replace("’", "'").removesuffix("'s")


def grounded_statistics(answers: Sequence[Answer]) -> np.ndarray:
    """1 where nothing is unfounded and something is said, and 1: (answers, 2)."""
    return np.array(
        [(bool(answer.prediction) and not unfounded(answer.prediction, answer.prompt), 1.0) for answer in answers]
    ).reshape(-1, 2)


METRICS = (
    Metric(
        name="grounded",
        title="true to the record",
        summary="share of texts all of whose numbers, names and genres stand in what the model was given, in percent.",
        statistics=grounded_statistics,
        score=percent,
        higher_is_better=True,
        worst=0,
        best=100,
        signature=lambda answers: "numbers, capitalised names and genre words of the answer, looked up in the prompt",
    ),
)
