"""Control tokens in texts: a customer may write `<|im_end|>`, and that must not end a turn.

A chat template puts control tokens around texts, and the tokenizer finds them in the whole by their spelling, so it
finds those as well that a text merely spells. Here a text's own are marked before the template is rendered, and become
the tokens of their letters.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from workbench.data.template import special_ids
from workbench.data.turns import Message

# Around what a text spells: noncharacters of Unicode, that are for use inside a program and stand in no text.
OPEN, CLOSE = "\ufdd0", "\ufdd1"
SIGNS = re.compile(f"[{OPEN}{CLOSE}]")
NOTHING = re.compile(r"(?!)")
MARKED = re.compile(f"{OPEN}([^{CLOSE}]*){CLOSE}")


class Tokens:
    """Text to token ids, a text's own control tokens as plain text.

    An assistant's turn may hold tokens that are there for it, such as `<think>` or the beginning of a call: of its only
    those are plain text that begin or end turns and texts.

    Args:
        tokenizer: of transformers. Its template has put every special token into what is given here.
        turns: what the template makes of a conversation.
        allow: what texts spell is those tokens.
    """

    def __init__(self, tokenizer: Any, turns: str, allow: bool = False) -> None:
        self.tokenizer = tokenizer
        self._allow = allow
        named = {str(token) for token in tokenizer.special_tokens_map.values() if isinstance(token, str)}
        self._ids = special_ids(tokenizer)
        self._all = _any_of(tokenizer.convert_ids_to_tokens(sorted(self._ids)))
        self._turns = _any_of({*named, *self._all.findall(turns)})
        self._parts = re.compile(f"{OPEN}(?P<plain>[^{CLOSE}]*){CLOSE}|{self._all.pattern}")

    def spelled(self, messages: Sequence[Message]) -> list[str]:
        """The control tokens that the messages spell and that are to be plain text."""
        return [found for message in messages for text in _texts(message) for found in self._of(message).findall(text)]

    def marked(self, messages: Sequence[Message]) -> list[Message]:
        """The messages with the control tokens that they spell between `OPEN` and `CLOSE`, and no such sign beside."""
        if any(sign in text for message in messages for text in _texts(message) for sign in (OPEN, CLOSE)):
            messages = [_replaced(message, SIGNS, "") for message in messages]
        if not self.spelled(messages):
            return list(messages)
        return [_replaced(message, self._of(message), rf"{OPEN}\g<0>{CLOSE}") for message in messages]

    def said(self, text: str) -> str:
        """What of a text is read by who skips control tokens."""
        return self._all.sub("", text) if self._allow else text

    def _of(self, message: Message) -> re.Pattern[str]:
        if self._allow:
            return NOTHING
        return self._turns if message["role"] == "assistant" else self._all

    def together(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many rendered texts, in a tenth of the time of one by one."""
        plain = [text for text in texts if OPEN not in text]
        together = iter(self.tokenizer(plain, add_special_tokens=False)["input_ids"] if plain else ())
        return [self._marked_ids(text) if OPEN in text else list(next(together)) for text in texts]

    def _marked_ids(self, text: str) -> list[int]:
        found = self._broken_ids(text) if self.tokenizer.is_fast else None
        return self._ids_in_parts(text) if found is None else found

    def _broken_ids(self, text: str) -> list[int] | None:
        """Tokens of the text with a mark inside each spelled control token, those of the marks left out.

        So all else becomes the tokens that it always is.

        Returns:
            None where the tokenizer lets something else merge with a mark, or doesn't mind it.
        """
        broken = MARKED.sub(lambda match: f"{match[1][:1]}{CLOSE}{match[1][1:]}", text)
        encoded = self.tokenizer(broken, add_special_tokens=False, return_offsets_mapping=True)
        spans = [(start, end, CLOSE in broken[start:end]) for start, end in encoded["offset_mapping"]]
        if any(marked and end - start > 1 for start, end, marked in spans):
            return None
        found = [token for token, (_, _, marked) in zip(encoded["input_ids"], spans, strict=True) if not marked]
        written = self.tokenizer.convert_tokens_to_ids(self._all.findall(MARKED.sub("", text)))
        special = [token for token in found if token in self._ids and token != self.tokenizer.unk_token_id]
        return found if special == [token for token in written if token != self.tokenizer.unk_token_id] else None

    def _ids_in_parts(self, text: str) -> list[int]:
        """What stands between two control tokens of the template by itself, as plain text."""
        found: list[int] = []
        between, place = "", 0
        for match in self._parts.finditer(text):
            between += text[place : match.start()]
            place = match.end()
            if match["plain"] is not None:
                between += match["plain"]
            else:
                found += [*self._plain_ids(between), self.tokenizer.convert_tokens_to_ids(match[0])]
                between = ""
        return [*found, *self._plain_ids(between + text[place:])]

    def _plain_ids(self, text: str) -> list[int]:
        if not text:
            return []
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def unmarked(text: str) -> str:
    """A rendered text as it is read."""
    return text.replace(OPEN, "").replace(CLOSE, "")


def _any_of(spelled: Iterable[str]) -> re.Pattern[str]:
    """Finds the longest of them at a place; nothing, if there are none."""
    return re.compile("|".join(map(re.escape, sorted(filter(None, spelled), key=len, reverse=True))) or NOTHING.pattern)


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for inner in value.values() for text in _texts(inner)]
    return [text for inner in value for text in _texts(inner)] if isinstance(value, list | tuple) else []


def _replaced(value: Any, pattern: re.Pattern[str], by: str) -> Any:
    """`value` with `by` in the place of what is found in its texts."""
    if isinstance(value, str):
        return pattern.sub(by, value)
    if isinstance(value, Mapping):
        return {name: _replaced(inner, pattern, by) for name, inner in value.items()}
    return [_replaced(inner, pattern, by) for inner in value] if isinstance(value, list | tuple) else value
