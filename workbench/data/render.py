"""The one place where messages become text and tokens: training, evaluation, serving and export use it alike."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from workbench.data.examples import Example, Message
from workbench.data.pairs import TOKENS_SCHEMA, Examples, Pairs, Rendered, write_examples
from workbench.data.store import TOGETHER, Store
from workbench.data.written import unwritten, unwritten_answer
from workbench.errors import Problem, UserError, collected

# For checkpoints that bring no chat template, such as GPT-2: roles in words, the end-of-text token after each turn.
# The prompt ends in 'Assistant:' with no space, since byte-level vocabularies keep a space with the word behind it.
FALLBACK_TEMPLATE = (
    "{% if FIRST %}{{ bos_token }}{% endif %}"
    "{% for message in messages %}"
    "{{ message['role'].capitalize() + ': ' + message['content'] + eos_token + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)

PROBE_PROMPT: tuple[Message, ...] = ({"role": "user", "content": "Question"},)
PROBE_ANSWER = "Answer"


@dataclass(frozen=True, kw_only=True)
class Renderer:
    """A tokenizer with its chat template, and the token that ends a turn.

    Attributes:
        tokenizer: of transformers, with a chat template.
        end_of_turn: id of the token after an answer, at which generation stops.
    """

    tokenizer: Any
    end_of_turn: int

    def prompt(self, messages: Sequence[Message]) -> str:
        """The text up to where the assistant's answer begins."""
        return _chat(self.tokenizer, messages, add_generation_prompt=True)

    def prompts(self, conversations: Sequence[Sequence[Message]]) -> list[tuple[str, list[int]]]:
        """The text of many prompts, each with its token ids, in a tenth of the time of one by one."""
        if not conversations:
            return []
        texts = [self.prompt(messages) for messages in conversations]
        return list(zip(texts, self.tokenizer(texts, add_special_tokens=False)["input_ids"], strict=True))

    def tokens(self, text: str) -> list[int]:
        """Token ids of rendered text; the template has put every special token into it."""
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
        texts = [self.prompt(example.prompt) for example in examples]
        wholes = [_chat(self.tokenizer, [*example.prompt, _answer(example)]) for example in examples]
        ids = self.tokenizer([*texts, *wholes], add_special_tokens=False)["input_ids"]
        found = [
            self._rendered(example, text, list(prompt_ids), list(whole_ids))
            for example, text, prompt_ids, whole_ids in zip(
                examples, texts, ids[: len(texts)], ids[len(texts) :], strict=True
            )
        ]
        said = self.tokenizer.batch_decode(
            [[] if isinstance(one, ValueError) else one.completion_ids for one in found], skip_special_tokens=True
        )
        return [
            one if isinstance(one, ValueError) else _checked(one, example, text)
            for one, example, text in zip(found, examples, said, strict=True)
        ]

    def _rendered(
        self, example: Example, text: str, prompt_ids: list[int], whole_ids: list[int]
    ) -> Rendered | ValueError:
        if whole_ids[: len(prompt_ids)] != prompt_ids:
            return ValueError("the prompt is not a token prefix of prompt + completion under this chat template")
        completion_ids = whole_ids[len(prompt_ids) :]
        if self.end_of_turn not in completion_ids[1:]:
            return ValueError("no trained token: the completion is empty or has no end-of-turn token behind it")
        # Templates put a line break after the end of the turn, which nobody generates.
        last = len(completion_ids) - completion_ids[::-1].index(self.end_of_turn)
        return Rendered(id=example.id, text=text, prompt_ids=prompt_ids, completion_ids=completion_ids[:last])

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


def _checked(rendered: Rendered, example: Example, said: str) -> Rendered | ValueError:
    """See that the template wrote the answer, all of it and nothing else, and all that the prompt holds.

    Args:
        said: the text of the completion.
    """
    if any(len(message) > 2 for message in example.prompt) and (wrong := unwritten(example.prompt, rendered.text)):
        return ValueError(wrong)
    if example.turn:
        wrong = unwritten_answer(example.turn, said)
        return ValueError(wrong) if wrong else replace(rendered, answer=said.strip())
    if "".join(said.split()) != "".join(example.completion.split()):
        return ValueError(f"the template adds text of its own to the answer: {said.strip()[:60]!r}")
    return rendered


def classifying(renderer: Renderer) -> Renderer:
    """The same renderer for a model with a head of classes, which is to find the last token of padded texts.

    Transformers takes the last one that is not the padding token, and pads on the right only if the tokenizer says so.
    So the padding token must be one that no prompt ends with: the tokenizer's own if that holds, else the end of a
    turn, or another special token.

    Raises:
        UserError: every special token is what prompts end with.
    """
    tokenizer = copy.deepcopy(renderer.tokenizer)
    last = renderer.tokens(renderer.prompt(PROBE_PROMPT))[-1]
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
    return Renderer(tokenizer=tokenizer, end_of_turn=renderer.end_of_turn)


def _chat(tokenizer: Any, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
    """The template's text; templates that let the model think aloud first are told not to."""
    more: dict[str, Any] = {}
    if tools := messages[0].get("tools"):
        more["tools"] = tools
        messages = [{name: value for name, value in messages[0].items() if name != "tools"}, *messages[1:]]  # type: ignore[list-item]
    text = tokenizer.apply_chat_template(
        list(messages), tokenize=False, add_generation_prompt=add_generation_prompt, enable_thinking=False, **more
    )
    return str(text)


def make_renderer(tokenizer: Any) -> Renderer:
    """Find out how `tokenizer` ends a turn; give it the fallback template if it has none.

    Raises:
        UserError: no special token ends the assistant's turn, so a model trained on it would never stop.
    """
    if not tokenizer.chat_template:
        if tokenizer.eos_token is None:
            raise UserError("the tokenizer has neither a chat template nor an end-of-sequence token")
        # The template writes every special token, the first one too where this tokenizer adds one.
        adds_first = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
        tokenizer.chat_template = FALLBACK_TEMPLATE.replace("FIRST", "true" if adds_first else "false")
    answer: Message = {"role": "assistant", "content": PROBE_ANSWER}
    whole = _chat(tokenizer, [*PROBE_PROMPT, answer])
    behind = tokenizer(whole.rpartition(PROBE_ANSWER)[2], add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids) | {
        token for token, added in tokenizer.added_tokens_decoder.items() if added.special
    }
    if not behind or behind[0] not in special:
        raise UserError(
            "the chat template puts no special token after the assistant's turn: the model could not learn to stop. "
            "Give a checkpoint whose template ends turns, or set tokenizer.chat_template in a local copy"
        )
    return Renderer(tokenizer=tokenizer, end_of_turn=behind[0])


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
                    yield {"index": index, **vars(rendered)}

    tokens = store.write(f"{name}.tokens", fitting(), TOKENS_SCHEMA)
    if problems:
        raise collected("chat template", problems, unit="examples")
    return Pairs(tokens, given.whole), too_long
