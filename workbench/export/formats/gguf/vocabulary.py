"""How llama.cpp makes tokens: from the words, merges and kinds of a tokenizer of Hugging Face."""

import json
from collections.abc import Mapping
from typing import Any

from gguf import GGUFWriter, TokenType

from workbench.errors import UserError

# The pattern that splits a text into words -> what llama.cpp calls it. With "digits" each digit is a word.
GPT2 = "byte-level"
DIGITS = "digits, byte-level"
# The two that Qwen 2 and Llama 3 brought differ in how many digits are one word.
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
SIGNS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {WORDS + SIGNS: "qwen2", WORDS + "{1,3}" + SIGNS: "llama-bpe", GPT2: "gpt-2", DIGITS: "smollm"}
COMPOSED = "NFC"
# A word of which no merge makes anything more is found by its letters.
NO_MERGE = 0.0


def write_vocabulary(writer: GGUFWriter, tokenizer: Any, entries: int, end_of_turn: int) -> None:
    """Write the tokenizer of a checkpoint.

    Args:
        tokenizer: of transformers, with its `tokenizer.json`.
        entries: rows of the embeddings; rows that no word has get a name of their own.
        end_of_turn: id of the token that ends an answer.

    Raises:
        UserError: llama.cpp would split texts in another way.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError("a GGUF needs a tokenizer.json, and this tokenizer has none; take --format hf")
    whole = json.loads(backend.to_str())
    if whole["model"]["type"] != "BPE":
        raise UserError(f"llama.cpp has no {whole['model']['type']} tokenizer of this kind; take --format hf")
    words = _words(tokenizer, entries)
    kinds = _kinds(tokenizer, words)
    if whole["model"].get("byte_fallback"):
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(_scores(words, whole["model"]["merges"]))
        writer.add_add_space_prefix(_prepends_space(whole))
        kinds = [TokenType.BYTE if _is_byte(word) else kind for word, kind in zip(words, kinds, strict=True)]
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_splitting(whole))
        writer.add_token_merges([" ".join(pair) for pair in map(_pair, whole["model"]["merges"])])
    writer.add_token_list(words)
    writer.add_token_types(kinds)
    _write_special(writer, tokenizer, end_of_turn)


def _write_special(writer: GGUFWriter, tokenizer: Any, end_of_turn: int) -> None:
    """Ids of the tokens that have a meaning, and which of them stand around every text."""
    first = tokenizer("a")["input_ids"][0]
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(end_of_turn)
    writer.add_eot_token_id(end_of_turn)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    if tokenizer.unk_token_id is not None:
        writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_add_bos_token(tokenizer.bos_token_id is not None and first == tokenizer.bos_token_id)
    writer.add_add_eos_token(False)
    writer.add_chat_template(tokenizer.chat_template)


def _words(tokenizer: Any, entries: int) -> list[str]:
    by_id = {number: word for word, number in tokenizer.get_vocab().items()}
    return [by_id.get(number, f"<|unused_{number}|>") for number in range(entries)]


def _kinds(tokenizer: Any, words: list[str]) -> list[int]:
    """What each word is: control tokens are written by templates only, others are found in texts."""
    added = dict(tokenizer.added_tokens_decoder)
    known = set(tokenizer.get_vocab().values())
    found: list[int] = []
    for number in range(len(words)):
        if number not in known:
            found.append(TokenType.UNUSED)
        elif number in added:
            found.append(TokenType.CONTROL if added[number].special else TokenType.USER_DEFINED)
        else:
            found.append(TokenType.NORMAL)
    return found


def _splitting(whole: Mapping[str, Any]) -> str:
    """What llama.cpp calls the way in which texts are split into words.

    Raises:
        UserError: it has no name for it.
    """
    # What is written in composed characters already, as nearly all texts are, is the same with NFC and without.
    if (whole.get("normalizer") or {"type": COMPOSED})["type"] != COMPOSED:
        raise UserError("the tokenizer changes texts before it splits them, which llama.cpp does not; take --format hf")
    parts = _flat(whole.get("pre_tokenizer"))
    kinds = [part["type"] for part in parts]
    if kinds == ["ByteLevel"] and parts[0]["use_regex"] and not parts[0]["add_prefix_space"]:
        return PATTERNS[GPT2]
    if kinds == ["Digits", "ByteLevel"] and parts[0]["individual_digits"] and parts[1]["use_regex"]:
        return PATTERNS[DIGITS]
    if kinds == ["Split", "ByteLevel"] and not parts[1]["use_regex"]:
        pattern = parts[0]["pattern"].get("Regex")
        if pattern in PATTERNS:
            return PATTERNS[pattern]
    raise UserError(f"llama.cpp has no name for how the tokenizer splits texts ({', '.join(kinds)}); take --format hf")


def _flat(part: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if part is None:
        return []
    return [one for inner in part["pretokenizers"] for one in _flat(inner)] if part["type"] == "Sequence" else [part]


def _pair(merge: Any) -> list[str]:
    return merge.split(" ") if isinstance(merge, str) else list(merge)


def _scores(words: list[str], merges: list[Any]) -> list[float]:
    """Scores by which llama.cpp merges in the order of the merges: it takes the pair whose word has the highest."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault("".join(_pair(merge)), rank)
    return [-float(ranks[word]) - 1 if word in ranks else NO_MERGE for word in words]


def _prepends_space(whole: Mapping[str, Any]) -> bool:
    normalizer = whole.get("normalizer") or {}
    before = any(part.get("type") == "Prepend" for part in normalizer.get("normalizers", [normalizer]))
    marks = [part for part in _flat(whole.get("pre_tokenizer")) if part["type"] == "Metaspace"]
    return before or any(part.get("prepend_scheme", "always") != "never" for part in marks)


def _is_byte(word: str) -> bool:
    return len(word) == 6 and word.startswith("<0x") and word.endswith(">")
