"""How a text is parted into words, found from its script: not all put spaces between them."""

import re
from typing import Literal

Words = Literal["words", "zh", "char"]

HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
# Kana, Thai, Lao, Burmese and Khmer.
UNSPACED = re.compile(r"[\u3040-\u30ff\u31f0-\u31ff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
LETTER = re.compile(r"[^\W\d_]")
# Of the letters of a text, from which on it is one of that script.
SHARE = 0.3


def is_foreign(text: str) -> bool:
    """Whether most letters are none of English, all of which rouge-score's own tokenizer leaves out."""
    letters = LETTER.findall(text)
    return 2 * sum(not letter.isascii() for letter in letters) > len(letters)


def words_of(text: str) -> Words:
    """How sacrebleu's tokenizers part `text`: at spaces and punctuation ("words"), Chinese characters ("zh"), or all.

    Japanese has Chinese characters beside its own.
    """
    letters = len(LETTER.findall(text)) or 1
    unspaced, han = len(UNSPACED.findall(text)), len(HAN.findall(text))
    if unspaced and unspaced + han >= SHARE * letters:
        return "char"
    return "zh" if han >= SHARE * letters else "words"
