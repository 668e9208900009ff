"""The one place where messages become text and tokens: training, evaluation, serving and export use it alike."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from typing import Any

from workbench.data.control import Tokens, unmarked
from workbench.data.examples import Example, Message
from workbench.data.notes import note
from workbench.data.pairs import TOKENS_SCHEMA, Examples, Pairs, Rendered, write_examples
from workbench.data.store import TOGETHER, Store
from workbench.data.template import (
    END_OF_THOUGHTS,
    PROBE_ANSWER,
    PROBE_PROMPT,
    ChatTemplate,
    find_template,
    has_thoughts,
    special_ids,
)
from workbench.data.turns import trimmed
from workbench.data.written import unwritten, unwritten_answer
from workbench.errors import Problem, UserError, collected

# What templates that let the model think write of an answer without thoughts.
THOUGHTS = "<think>"
NO_THOUGHTS = f"{THOUGHTS}{END_OF_THOUGHTS}"
# What is noted of examples that were rendered.
SPELLED = "examples that spell a control token"
UNKNOWN = "tokens that stand for what the tokenizer doesn't know"


@dataclass(frozen=True, kw_only=True)
class Renderer:
    """A tokenizer with its chat template, and the token that ends a turn.

    Attributes:
        template: what turns messages into text, and whose tokenizer makes tokens of it.
        end_of_turn: id of the token after an answer, at which generation stops.
        allow_control_tokens: see `Recipe`.
    """

    template: ChatTemplate
    end_of_turn: int
    allow_control_tokens: bool = False

    @property
    def tokenizer(self) -> Any:
        """Of transformers, with a chat template."""
        return self.template.tokenizer

    @cached_property
    def control(self) -> Tokens:
        """What a text may spell without being it."""
        turns = self.template.text([*PROBE_PROMPT, PROBE_ANSWER])
        return Tokens(self.tokenizer, turns, self.allow_control_tokens)

    def with_tokenizer(self, tokenizer: Any) -> "Renderer":
        """The same with another tokenizer, whose template is the same."""
        return replace(self, template=replace(self.template, tokenizer=tokenizer))

    def prompt(self, messages: Sequence[Message]) -> str:
        """The text up to where the assistant's answer begins.

        Raises:
            ValueError: the template refuses the messages.
        """
        return unmarked(self.template.text(self.control.marked(messages), add_generation_prompt=True))

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of that text, what a message spells of control tokens being plain text."""
        ((_, ids),) = self.prompts([messages])
        return ids

    def prompts(self, conversations: Sequence[Sequence[Message]]) -> list[tuple[str, list[int]]]:
        """The text of many prompts, each with its token ids, in a tenth of the time of one by one.

        Raises:
            ValueError: the template refuses one of them.
        """
        if not conversations:
            return []
        texts = self.template.texts([(self.control.marked(messages), True) for messages in conversations])
        prompts = [text for text in texts if isinstance(text, str)]
        if len(prompts) < len(texts):
            raise next(text for text in texts if isinstance(text, ValueError))
        return list(zip(map(unmarked, prompts), self.control.together(prompts), strict=True))

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text; every special token that it spells is one."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def render(self, example: Example) -> Rendered:
        """Render prompt and completion, and check that training and generation see the same prompt.

        Raises:
            ValueError: the prompt is not a token prefix of prompt + completion, no end-of-turn token follows
                the completion, or the template adds text to it.
        """
        (rendered,) = self.render_together([example])
        if isinstance(rendered, ValueError):
            raise rendered
        return rendered

    def render_together(self, examples: Sequence[Example]) -> list[Rendered | ValueError]:
        """Render many at once, in a tenth of the time: the result of each, or why it has none."""
        if not examples:
            return []
        texts = self._texts(examples)
        ids = iter(self.control.together([text for pair in texts if isinstance(pair, tuple) for text in pair]))
        found = [
            self._rendered(example, *pair, next(ids), next(ids)) if isinstance(pair, tuple) else pair
            for example, pair in zip(examples, texts, strict=True)
        ]
        said = self.tokenizer.batch_decode(
            [[] if isinstance(one, ValueError) else one.completion_ids for one in found], skip_special_tokens=True
        )
        return [
            one if isinstance(one, ValueError) else self._checked(one, example, text)
            for one, example, text in zip(found, examples, said, strict=True)
        ]

    def _texts(self, examples: Sequence[Example]) -> list[tuple[str, str] | ValueError]:
        """Of each the text of the prompt, and that of prompt and answer."""
        asked: list[tuple[Sequence[Message], bool]] = []
        for example in examples:
            asked.append((self.control.marked(example.prompt), True))
            asked.append((self.control.marked([*example.prompt, _answer(example)]), False))
        texts = self.template.texts(asked)
        found: list[tuple[str, str] | ValueError] = []
        for example, prompt, whole in zip(examples, texts[::2], texts[1::2], strict=True):
            if isinstance(prompt, ValueError) or isinstance(whole, ValueError):
                found.append(prompt if isinstance(prompt, ValueError) else whole)  # type: ignore[arg-type]
            else:
                found.append((prompt, _with_indentation(whole, prompt, self.template.lead, example)))
        return found

    def _rendered(
        self, example: Example, prompt: str, whole: str, prompt_ids: list[int], whole_ids: list[int]
    ) -> Rendered | ValueError:
        completion_ids = self._behind(prompt, prompt_ids, whole, whole_ids)
        if completion_ids is None:
            off = self.template.has_switch and not self.template.thinking
            if off and has_thoughts(example.completion, example.turn):
                return ValueError("the answer holds thoughts, and prompts say not to think: enable_thinking=True")
            return ValueError("the prompt is not a token prefix of prompt + completion under this chat template")
        if self.end_of_turn not in completion_ids[1:]:
            return ValueError("no trained token: the completion is empty or has no end-of-turn token behind it")
        # Templates put a line break after the end of the turn, which nobody generates.
        last = len(completion_ids) - completion_ids[::-1].index(self.end_of_turn)
        return Rendered(
            id=example.id, text=unmarked(prompt), prompt_ids=prompt_ids, completion_ids=completion_ids[:last]
        )

    def _behind(self, prompt: str, prompt_ids: list[int], whole: str, whole_ids: list[int]) -> list[int] | None:
        """Token ids of what stands behind the prompt; None if the prompt is not a prefix of the whole.

        Spaces at the beginning of an answer may be one token with the line break before them. A model that goes on
        behind the prompt's tokens writes the answer's own, so these are taken if both together are the same text.
        """
        if whole_ids[: len(prompt_ids)] == prompt_ids:
            return whole_ids[len(prompt_ids) :]
        if not whole.startswith(prompt) or not whole[len(prompt) : len(prompt) + 1].isspace():
            return None
        (behind,) = self.control.together([whole[len(prompt) :]])
        decode = self.tokenizer.decode
        return behind if decode([*prompt_ids, *behind]) == decode(whole_ids) else None

    def _checked(self, rendered: Rendered, example: Example, said: str) -> Rendered | ValueError:
        """See that the template wrote the answer, all of it and nothing else, and all that the prompt holds.

        Args:
            said: the text of the completion.
        """
        if any(len(message) > 2 for message in example.prompt) and (wrong := unwritten(example.prompt, rendered.text)):
            return ValueError(wrong)
        if example.turn:
            written = self.tokenizer.decode(rendered.completion_ids) if self.allow_control_tokens else said
            wrong = unwritten_answer(example.turn, written)
            return ValueError(wrong) if wrong else replace(rendered, answer=trimmed(said))
        flat, whole = "".join(said.split()), "".join(self.control.said(example.completion).split())
        if flat in {whole, *self._with_thoughts(rendered.text, whole)}:
            return rendered
        if flat and flat == whole.rpartition(END_OF_THOUGHTS)[2]:
            return ValueError(
                f"the chat template leaves out what an answer holds up to {END_OF_THOUGHTS}, so that it could not be "
                "learnt: take a checkpoint whose template keeps thoughts, or rows without them"
            )
        return ValueError(f"the template adds text of its own to the answer: {said.strip()[:60]!r}")

    def _with_thoughts(self, prompt: str, answer: str) -> Iterator[str]:
        """What else may stand for an answer, all without spaces, where a template has a place for thoughts."""
        if self.template.thinking:
            yield f"{NO_THOUGHTS}{answer}"
            if prompt.rstrip().endswith(THOUGHTS):  # it has begun them
                yield f"{END_OF_THOUGHTS}{answer}"
                yield answer.removeprefix(THOUGHTS)

    def completions(self, texts: Iterable[str]) -> dict[str, list[int]]:
        """Token ids of each text as an answer, the end of the turn last.

        They don't depend on the prompt, which is a token prefix of what it is rendered with.

        Raises:
            UserError: naming every text that can't be an answer.
        """
        given = list(texts)
        rendered = self.render_together([Example(id=text, prompt=PROBE_PROMPT, completion=text) for text in given])
        problems = [f"choice {t!r}: {r}" for t, r in zip(given, rendered, strict=True) if isinstance(r, ValueError)]
        if problems:
            raise collected("chat template", problems)
        return {t: r.completion_ids for t, r in zip(given, rendered, strict=True) if isinstance(r, Rendered)}


def _answer(example: Example) -> Message:
    """The answer as the template is given it."""
    turn: Any = example.turn
    return turn or Message(role="assistant", content=example.completion)


def _with_indentation(whole: str, prompt: str, lead: str, example: Example) -> str:
    """The text with the indentation at the beginning of the answer, which some templates cut off.

    Args:
        lead: what the template writes between a prompt and an answer.
    """
    answer = example.completion.lstrip()
    indentation = example.completion[: len(example.completion) - len(answer)]
    behind = whole[len(prompt) :]
    cut = whole.startswith(prompt) and unmarked(behind).startswith(f"{lead}{answer}")
    if example.turn or not indentation or not cut:
        return whole
    return f"{prompt}{lead}{indentation}{behind.removeprefix(lead)}"


def classifying(renderer: Renderer) -> Renderer:
    """The same renderer for a model with a head of classes, which is to find the last token of padded texts.

    Transformers takes the last one that is not the padding token, and pads on the right only if the tokenizer says so.
    So the padding token must be one that no prompt ends with: the tokenizer's own if that holds, else the end of a
    turn, or another special token.

    Raises:
        UserError: every special token is what prompts end with.
    """
    tokenizer = copy.deepcopy(renderer.tokenizer)
    last = renderer.prompt_ids(PROBE_PROMPT)[-1]
    known = (tokenizer.pad_token_id, renderer.end_of_turn, tokenizer.eos_token_id, *sorted(tokenizer.all_special_ids))
    pad_id = next((token for token in known if token is not None and token != last), None)
    if pad_id is None:
        raise UserError(
            "head 'classes' needs a padding token that prompts don't end with, and the tokenizer has no other special "
            "token than that: add one to a local copy"
        )
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad_id)
    tokenizer.padding_side = "right"
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return renderer.with_tokenizer(tokenizer)


def make_renderer(
    tokenizer: Any, thinking: bool = False, day: date | None = None, allow_control_tokens: bool = False
) -> Renderer:
    """Find out what the chat template of `tokenizer` does; give it the fallback template if it has none.

    Args:
        thinking: whether prompts let the model think aloud before it answers, where the template has a switch for it.
        day: of which a template is told that writes the date; None for the day on which it is asked.
        allow_control_tokens: see `Recipe`.

    Raises:
        UserError: no special token ends the assistant's turn, so a model trained on it would never stop; or the
            template fails.
    """
    template = find_template(tokenizer, thinking, day)
    whole = template.text([*PROBE_PROMPT, PROBE_ANSWER])
    behind = tokenizer(whole.rpartition(PROBE_ANSWER["content"])[2], add_special_tokens=False)["input_ids"]
    if not behind or behind[0] not in special_ids(tokenizer):
        raise UserError(
            "the chat template puts no special token after the assistant's turn: the model could not learn to stop. "
            "Give a checkpoint whose template ends turns, or set tokenizer.chat_template in a local copy"
        )
    return Renderer(template=template, end_of_turn=behind[0], allow_control_tokens=allow_control_tokens)


def render_all(
    renderer: Renderer, examples: Iterable[Example], max_tokens: int, store: Store | None = None, name: str = "rendered"
) -> tuple[Pairs, list[str]]:
    """Render `examples`.

    Args:
        examples: written to `store` first, unless they lie on disk already.
        store: where the tokens go, as `<name>.tokens`; None takes a temporary one.

    Returns:
        What fits into `max_tokens`, and the ids of the examples that don't.

    Raises:
        UserError: naming every example that can't be rendered.
    """
    store = store or Store.temporary()
    given = examples if isinstance(examples, Examples) else write_examples(store, f"{name}.examples", examples)
    too_long: list[str] = []
    problems: list[Problem] = []
    unknown = renderer.tokenizer.unk_token_id
    if unknown == renderer.tokenizer.eos_token_id:  # as GPT-2's, whose vocabulary knows every byte
        unknown = None

    def fitting() -> Iterator[dict[str, Any]]:
        for start in range(0, len(given), TOGETHER):
            some = given[start : start + TOGETHER]
            indices = given.indices[start : start + TOGETHER].tolist()
            for index, example, rendered in zip(indices, some, renderer.render_together(some), strict=True):
                if isinstance(rendered, ValueError):
                    problems.append(Problem(example.id, str(rendered)))
                elif rendered.length > max_tokens:
                    too_long.append(example.id)
                else:
                    note(SPELLED, bool(renderer.control.spelled([*example.prompt, _answer(example)])))
                    note(UNKNOWN, [*rendered.prompt_ids, *rendered.completion_ids].count(unknown))
                    yield {"index": index, **vars(rendered)}

    tokens = store.write(f"{name}.tokens", fitting(), TOKENS_SCHEMA)
    if problems:
        raise collected("chat template", problems, unit="examples")
    return Pairs(tokens, given.whole), too_long
