"""A model of transformers on this machine as a `LanguageModel`: batched, in bounded memory."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import nn

from workbench.console import progress_bar
from workbench.data import Example
from workbench.data.render import Rendered, Renderer
from workbench.data.turns import trimmed
from workbench.generation.branches import reads_branches
from workbench.generation.choices import MOST_TOGETHER, prompts_together, read_choices
from workbench.generation.context import most_tokens
from workbench.generation.decode import Decoded, decode_batch, open_batch
from workbench.generation.language_model import ChoiceLikelihoods, Conversation, Generated
from workbench.generation.pruning import Needed, Pruning, Reading
from workbench.generation.sampling import Sampler, Sampling
from workbench.generation.tree import ChoiceTree
from workbench.models import has_linear_output, keep_memory

if TYPE_CHECKING:
    from transformers import GenerationConfig

# Prompts that are answered together, at most; what they may take is said where their cache is kept.
ANSWERED_TOGETHER = 256
# Tokens of choices that are all read, whatever may be left unread.
FEW = 16
# What a tokenizer writes for bytes that are no whole character yet.
HALF_A_CHARACTER = "\ufffd"


def generation_config(renderer: Renderer, known: Any) -> "GenerationConfig":
    """Greedy decoding that stops at the end of the turn, whatever habits the checkpoint's own settings have.

    How long an answer may be is left to whoever asks: a bound in the file would cut what others ask of the model.

    Args:
        known: the checkpoint's own of transformers, whose ends are ends here, too.
    """
    from transformers import GenerationConfig

    ends = known.eos_token_id
    ends = ends if isinstance(ends, list) else [ends] if isinstance(ends, int) else []
    pad = renderer.tokenizer.pad_token_id
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        bos_token_id=renderer.tokenizer.bos_token_id,
        eos_token_id=sorted({renderer.end_of_turn, *ends}),
        pad_token_id=renderer.end_of_turn if pad is None else pad,
    )


class LocalModel:
    """A causal language model with its renderer; implements `LanguageModel`.

    Args:
        model: with or without an adapter, in evaluation mode.
        renderer: of its prompts.
    """

    def __init__(self, model: nn.Module, renderer: Renderer) -> None:
        self.model = model
        self.renderer = renderer
        self._choice_ids: dict[str, list[int]] = {}

    @cached_property
    def linear_output(self) -> bool:
        """Whether likelihoods can be measured without logits in memory."""
        return has_linear_output(self.model)

    @cached_property
    def branching(self) -> bool:
        """Whether several continuations of a prompt can be read in one row."""
        return reads_branches(self.model)

    def prompt(self, conversation: Conversation) -> str:
        """The exact text the model is given."""
        return self.renderer.prompt(conversation)

    def generate(
        self,
        conversations: Sequence[Conversation],
        sampling: Sampling,
        *,
        references: Sequence[str] | None = None,
        title: str = "",
    ) -> list[Generated]:
        """Answer every conversation; see `LanguageModel`.

        Raises:
            ValueError: a reference can't be rendered behind its conversation.
        """
        items = self._items(conversations, references)
        lengths = [len(item.prompt_ids) + sampling.max_new_tokens for item in items]
        decoded: dict[int, Decoded] = {}
        if items:
            keep_memory()
        with progress_bar(title, total=len(items), unit="answer") as bar:
            for batch in _batches(lengths, most_tokens(self.model)):
                found = decode_batch(
                    self.model,
                    [items[index] for index in batch],
                    self._end_ids(),
                    self.renderer.tokenizer.pad_token_id or 0,
                    sampling.max_new_tokens,
                    self.linear_output,
                    Sampler(sampling, batch),
                    self._stopped(sampling.stop),
                )
                decoded.update(zip(batch, found, strict=True))
                bar.update(len(batch))
        return [
            self._generated(item, decoded[index], sampling, references is not None) for index, item in enumerate(items)
        ]

    def loglikelihood(
        self,
        conversations: Sequence[Conversation],
        choices: Sequence[Sequence[str]],
        *,
        end_of_turn: bool = True,
        task: str = "",
        pruning: Pruning | None = None,
        title: str = "",
    ) -> list[ChoiceLikelihoods]:
        """How likely each choice is as the answer to its conversation; see `LanguageModel`.

        Raises:
            UserError: a choice that can't be an answer under this chat template.
        """
        if not conversations:
            return []
        self._learn_choices(choice for given in choices for choice in given)
        keep_memory()
        prompts = [ids for _, ids in self.renderer.prompts(conversations)]
        order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
        trees: dict[tuple[str, ...], ChoiceTree] = {}
        found: dict[int, ChoiceLikelihoods] = {}
        with progress_bar(title, total=len(prompts), unit="choice") as bar:
            while order:
                together = prompts_together(self.model, [prompts[index] for index in order[:MOST_TOGETHER]])
                batch, order = order[:together], order[together:]
                readings = [
                    self._reading(choices[index], trees, end_of_turn, pruning, pruning.kept[index] if pruning else ())
                    for index in batch
                ]
                read_choices(
                    self.model,
                    [prompts[index] for index in batch],
                    readings,
                    self.renderer.tokenizer.pad_token_id or 0,
                    self.linear_output,
                    self.branching,
                )
                for index, reading in zip(batch, readings, strict=True):
                    found[index] = ChoiceLikelihoods(
                        logprobs=reading.logprobs,
                        tokens=reading.tree.lengths,
                        bounds=reading.bounds,
                        constrained=reading.constrained_logprobs,
                    )
                bar.update(len(batch))
        return [found[index] for index in range(len(prompts))]

    def _reading(
        self,
        choices: Sequence[str],
        trees: dict[tuple[str, ...], ChoiceTree],
        end_of_turn: bool,
        pruning: Pruning | None,
        kept: Sequence[str],
    ) -> Reading:
        """What is to be known of the choices behind one prompt; trees are made once for all prompts."""
        key = tuple(choices)
        if key not in trees:
            trees[key] = ChoiceTree([self._ids_of(choice, end_of_turn) for choice in choices])
        tree = trees[key]
        if pruning is None or len(tree.inner) <= FEW:
            return Reading(tree)
        slopes, offsets = pruning.scores(choices, tree.lengths)
        numbers = [key.index(choice) for choice in kept]
        needed = Needed(slopes=slopes, offsets=offsets, kept=numbers, tolerance=pruning.tolerance)
        return Reading(tree, needed, pruning.constrained)

    def stream(self, conversation: Conversation, sampling: Sampling) -> Iterator[str]:
        """The answer to a conversation in pieces, as they are written; see `LanguageModel`.

        What could be the beginning of a stop text, or of a character, is held back until it is known.
        """
        keep_memory()
        (item,) = self._items([conversation], None)
        steps = open_batch(
            self.model,
            [item],
            self._end_ids(),
            self.renderer.tokenizer.pad_token_id or 0,
            sampling.max_new_tokens,
            self.linear_output,
            Sampler(sampling, [0]),
            self._stopped(sampling.stop),
        ).steps
        tokens: list[int] = []
        said = ""
        for step in steps:
            tokens += [token for _, token in step]
            text = self._text(tokens, sampling.stop, final=False)
            if text.startswith(said) and len(text) > len(said):
                yield text[len(said) :]
                said = text
        rest = self._text(tokens, sampling.stop, final=True)
        if len(rest) > len(said):
            yield rest[len(said) :]

    def _items(self, conversations: Sequence[Conversation], references: Sequence[str] | None) -> list[Rendered]:
        """Prompts with the tokens of their references; the end of the turn stands for one that isn't known."""
        if references is None:
            return [
                Rendered(id="", text=text, prompt_ids=ids, completion_ids=[self.renderer.end_of_turn])
                for text, ids in self.renderer.prompts(conversations)
            ]
        items = self.renderer.render_together(
            [
                Example(id="", prompt=tuple(conversation), completion=reference)
                for conversation, reference in zip(conversations, references, strict=True)
            ]
        )
        for item in items:
            if isinstance(item, ValueError):
                raise item
        return [item for item in items if isinstance(item, Rendered)]

    def _end_ids(self) -> list[int]:
        found: list[int] = generation_config(self.renderer, self.model.generation_config).eos_token_id
        return found

    def _stopped(self, stop: Sequence[str]) -> "_Stopped | None":
        return _Stopped(self.renderer.tokenizer, stop) if stop else None

    def _text(self, tokens: Sequence[int], stop: Sequence[str], final: bool) -> str:
        """The text of an answer up to a stop text, without empty lines around it.

        Args:
            final: nothing comes behind it; else what may become something else is left out.
        """
        text = str(self.renderer.tokenizer.decode(tokens, skip_special_tokens=True))
        lead = self.renderer.template.lead
        text = text.removeprefix(lead) if lead.isspace() else text
        ends = [text.index(end) for end in stop if end in text]
        if ends:
            return trimmed(text[: min(ends)])
        if not final:
            text = text.rstrip(HALF_A_CHARACTER)
            begun = [n for end in stop for n in range(1, len(end)) if text.endswith(end[:n])]
            text = text[: len(text) - max(begun, default=0)]
        return trimmed(text)

    def _generated(self, item: Rendered, decoded: Decoded, sampling: Sampling, measured: bool) -> Generated:
        raw = str(self.renderer.tokenizer.decode(decoded.tokens, skip_special_tokens=True))
        stopped = len(decoded.tokens) < sampling.max_new_tokens or any(end in raw for end in sampling.stop)
        return Generated(
            prompt=item.text,
            text=self._text(decoded.tokens, sampling.stop, final=True),
            tokens=len(decoded.tokens),
            finish_reason="stop" if stopped else "length",
            reference_nll=decoded.nll if measured else None,
            reference_tokens=len(item.completion_ids) if measured else 0,
        )

    def _learn_choices(self, choices: Iterable[str]) -> None:
        new = dict.fromkeys(choice for choice in choices if choice not in self._choice_ids)
        self._choice_ids |= self.renderer.completions(new)

    def _ids_of(self, choice: str, end_of_turn: bool) -> list[int]:
        return self._choice_ids[choice] if end_of_turn else self._choice_ids[choice][:-1]


class _Stopped:
    """Whether the text of an answer holds one of some stop texts."""

    def __init__(self, tokenizer: object, stop: Sequence[str]) -> None:
        self.tokenizer, self.stop = tokenizer, stop

    def __call__(self, tokens: Sequence[int]) -> bool:
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)  # type: ignore[attr-defined]
        return any(end in text for end in self.stop)


def _batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Indices of `lengths`, longest first, in batches of at most so many tokens."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    while order:
        together = max(1, min(ANSWERED_TOGETHER, most // lengths[order[0]]))
        yield order[:together]
        order = order[together:]
