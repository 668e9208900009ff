"""How a checkpoint is asked: its configuration, its vocabulary, its chat template and where its answers end.

Weights that are right to the last bit say something else where one of these is not what they were trained with.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from workbench.data import Example
from workbench.data.render import Renderer
from workbench.data.template import for_template
from workbench.export.process import ReadBack
from workbench.methods.bottleneck.structure import WIDTH

# What of a configuration an export may change: the vocabulary for soft prompts, ids of special tokens, and what says
# where and by what the files were written. Beside these the width of feed-forward blocks, for parallel adapters.
MAY_CHANGE = frozenset({
    "_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "quantization_config",
    "use_cache", "vocab_size", "pad_token_id", "bos_token_id", "eos_token_id", "_attn_implementation",
    "attn_implementation", "return_dict", "output_hidden_states", "output_attentions",
})  # fmt: skip
# Settings of a generation_config that end or change greedy answers, with the values that do neither.
ENDS = {
    "max_length": (None, 20), "max_new_tokens": (None,), "max_time": (None,), "stop_strings": (None,),
    "forced_eos_token_id": (None,), "forced_bos_token_id": (None,), "exponential_decay_length_penalty": (None,),
    "min_length": (None, 0), "min_new_tokens": (None, 0), "do_sample": (None, False), "num_beams": (None, 1),
    "repetition_penalty": (None, 1.0), "no_repeat_ngram_size": (None, 0), "bad_words_ids": (None,),
    "begin_suppress_tokens": (None,), "sequence_bias": (None,), "guidance_scale": (None,),
}  # fmt: skip
# Texts that are made tokens, of each held-out split's beginning.
TEXTS = 8


@dataclass(frozen=True, kw_only=True)
class Interface:
    """How the trained model was asked in the run.

    Attributes:
        conversations: `messages` and `tools` of the held-out prompts.
        prompt_ids: their tokens.
        texts: some raw texts.
        text_ids: their tokens, with the special ones that the tokenizer adds.
        end_of_turn: id of the token behind an answer.
        vocabulary: entries of the tokenizer.
        config: of the base, with all defaults.
    """

    conversations: Sequence[Mapping[str, Any]]
    prompt_ids: Sequence[Sequence[int]]
    texts: Sequence[str]
    text_ids: Sequence[Sequence[int]]
    end_of_turn: int
    vocabulary: int
    config: Mapping[str, Any]


def interface_of(renderer: Renderer, examples: Sequence[Example], config: Any) -> Interface:
    """How a model is asked for the prompts of `examples`.

    Args:
        renderer: of the run. Its day is left out: an export writes the day on which it is asked.
        config: of the base, of transformers.
    """
    today = replace(renderer, template=replace(renderer.template, day=None))
    prompts = [example.prompt for example in examples]
    texts = [example.completion for example in examples[:TEXTS]]
    asked = [for_template(messages, True) for messages in prompts]
    return Interface(
        conversations=[{name: one[name] for name in ("messages", "tools")} for one in asked],
        prompt_ids=[ids for _, ids in today.prompts(prompts)],
        texts=texts,
        text_ids=[renderer.tokenizer(text)["input_ids"] for text in texts],
        end_of_turn=renderer.end_of_turn,
        vocabulary=len(renderer.tokenizer),
        config=as_saved(config),
    )


def as_saved(config: Any) -> dict[str, Any]:
    """A configuration of transformers with all its defaults, as JSON holds it."""
    values: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return values


def misfit(read: ReadBack, interface: Interface, new_entries: Sequence[int], classes: bool = False) -> str | None:
    """In what a checkpoint is not asked as the trained model was; None if it is.

    Args:
        new_entries: of the vocabulary, which stand for a soft prompt in front of every text.
        classes: it is of a head of classes, which generates nothing.
    """
    return (
        _config_misfit(read.config, interface.config)
        or (None if classes else _generation_misfit(read.generation, interface.end_of_turn, new_entries))
        or _vocabulary_misfit(read, interface, new_entries)
        or (f"its chat template can't write the prompts: {read.template_error}" if read.template_error else None)
        or prompt_misfit(read.prompt_ids, read.text_ids, interface, new_entries)
    )


def _config_misfit(found: Mapping[str, Any], base: Mapping[str, Any]) -> str | None:
    """Settings that are not the base's, but those that an export may change.

    What the base's lacks, its architecture doesn't read, such as the names by which older versions know a setting.
    """
    changed = {
        name: (found.get(name), before)
        for name, before in sorted(base.items())
        if name not in MAY_CHANGE and found.get(name) != before and not _is_width(name, found.get(name))
    }
    for name, (now, before) in list(changed.items()):
        if isinstance(now, Mapping) and isinstance(before, Mapping) and name.endswith("_config"):
            del changed[name]
            if inner := _config_misfit(now, before):
                return inner
    if not changed:
        return None
    said = ", ".join(f"{name} is {now!r}, in the base {before!r}" for name, (now, before) in list(changed.items())[:3])
    return f"its config.json is not the base's: {said}"


def _is_width(name: str, value: Any) -> bool:
    return bool(WIDTH.search(name)) and isinstance(value, int) and not isinstance(value, bool)


def _generation_misfit(found: Mapping[str, Any], end_of_turn: int, new_entries: Sequence[int]) -> str | None:
    ends = found.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [ends]
    if end_of_turn not in ends:
        return f"its generation_config.json ends answers at token {ends}, and not at the end of the turn, {end_of_turn}"
    if set(found.get("suppress_tokens") or ()) != set(new_entries):
        return "its generation_config.json lets it say other entries of the vocabulary than the trained model could"
    for name, harmless in ENDS.items():
        if found.get(name) not in harmless:
            return f"its generation_config.json changes or cuts answers: {name} is {found[name]!r}"
    return None


def _vocabulary_misfit(read: ReadBack, interface: Interface, new_entries: Sequence[int]) -> str | None:
    expected = interface.vocabulary + len(set(new_entries) - set(range(interface.vocabulary)))
    if read.vocabulary != expected:
        return f"its tokenizer has {read.vocabulary} entries, the trained model's {expected}"
    return None


def prompt_misfit(
    prompt_ids: Sequence[Sequence[int]],
    text_ids: Sequence[Sequence[int]],
    interface: Interface,
    new_entries: Sequence[int],
) -> str | None:
    """In what the tokens of prompts and texts are not those of the training; None if they are.

    Args:
        prompt_ids, text_ids: that an export made of the interface's conversations and texts.
    """
    for what, found, expected in (
        ("its chat template writes", prompt_ids, interface.prompt_ids),
        ("its tokenizer makes of a raw text", text_ids, interface.text_ids),
    ):
        for ids, right in zip(found, expected, strict=True):
            if (given := _behind(ids, new_entries)) != list(right):
                return f"{what} other tokens than in the training: {_difference(given, list(right))}"
    return None


def _behind(ids: Sequence[int], new_entries: Sequence[int]) -> list[int]:
    """What stands behind a soft prompt."""
    count = len(new_entries)
    return list(ids[count:]) if count and list(ids[:count]) == list(new_entries) else list(ids)


def _difference(found: list[int], right: list[int]) -> str:
    if len(found) == len(right) and len({a - b for a, b in zip(found, right, strict=True)}) == 1:
        return f"each is {found[0] - right[0]:+d} of what it should be"
    if found[1:] == right:
        again = " a second time" if right[:1] == found[:1] else ""
        return f"token {found[0]} stands in front{again}"
    if found == right[1:]:
        return f"token {right[0]} is missing in front"
    if found[:-1] == right:
        return f"token {found[-1]} stands behind it"
    place = next(
        (place for place, (a, b) in enumerate(zip(found, right, strict=False)) if a != b), min(len(found), len(right))
    )
    some, others = (ids[place : place + 4] for ids in (found, right))
    return f"from place {place} on {some} in place of {others}"
