"""In what language a report is written: every text stands in English where it is used, its translations in a table."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from workbench.compare.chinese import CHINESE

LANGUAGES: Mapping[str, Mapping[str, str]] = {"en": {}, "zh": CHINESE}

_language: ContextVar[str] = ContextVar("language", default="en")


@contextmanager
def written_in(language: str) -> Iterator[None]:
    """While the block runs, `say` speaks a language of `LANGUAGES`."""
    before = _language.set(language)
    try:
        yield
    finally:
        _language.reset(before)


def language() -> str:
    """The one that is spoken."""
    return _language.get()


def say(text: str, /, **values: object) -> str:
    """A text in the language of the report, with `values` in the places that it names.

    Raises:
        KeyError: it has no translation.
    """
    told = text if language() == "en" else LANGUAGES[language()][text]
    return told.format(**values)


def joined(sentences: Sequence[str]) -> str:
    """Sentences one after another; empty ones are left out."""
    return say(" ").join(filter(None, sentences))


def listed(names: Sequence[str]) -> str:
    """Names one after another, the last behind an "and"."""
    if len(names) == 1:
        return names[0]
    return say("{first} and {last}", first=say(", ").join(names[:-1]), last=names[-1])
