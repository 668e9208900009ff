"""What evaluation, chat and a server need of a language model, wherever it runs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from workbench.data import Message
from workbench.generation.pruning import Pruning
from workbench.generation.sampling import Sampling

Conversation = Sequence[Message]


@dataclass(frozen=True, kw_only=True)
class Generated:
    """An answer that a model wrote.

    Attributes:
        prompt: the exact text the model was given.
        text: what it wrote, without the end of the turn, without spaces around it.
        tokens: how many tokens that is.
        finish_reason: "stop" at the end of the turn or a stop text, "length" at `max_new_tokens`.
        reference_nll: negative log-likelihood of the reference and the end of the turn behind it, in nats; None where
            no reference was given, or the model doesn't tell.
        reference_tokens: tokens to which that belongs.
    """

    prompt: str
    text: str
    tokens: int
    finish_reason: Literal["stop", "length"]
    reference_nll: float | None = None
    reference_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class ChoiceLikelihoods:
    """How likely a model finds each of several continuations of one prompt.

    Attributes:
        logprobs: natural logarithms, (choices,). Where only likelihoods under the constraint were asked for
            (`Pruning.constrained`) and choices are many, those.
        tokens: tokens that each stands for, (choices,).
        bounds: numbers of the choices that were not read to their end: what stands there is an upper bound.
        constrained: how likely each is under the constraint to write one of them, natural logarithms, (choices,): at
            each token the shares of those that can follow count. They sum to 1, if none is in `bounds`. None where a
            choice begins another, not all was read, or the model doesn't tell.
    """

    logprobs: np.ndarray
    tokens: np.ndarray
    bounds: frozenset[int] = frozenset()
    constrained: np.ndarray | None = None


class LanguageModel(Protocol):
    """A model that answers conversations: a tuned checkpoint on this machine, or an endpoint.

    Conversations are messages, the last one the user's. What makes a prompt of them is the model's own.
    """

    def prompt(self, conversation: Conversation) -> str:
        """The exact text the model is given."""

    def generate(
        self,
        conversations: Sequence[Conversation],
        sampling: Sampling,
        *,
        references: Sequence[str] | None = None,
        title: str = "",
    ) -> list[Generated]:
        """Answer every conversation.

        Args:
            sampling: how answers are written.
            references: an answer for each conversation whose likelihood is measured along the way.
            title: in front of a progress bar; none for an empty one.
        """

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
        """How likely each choice is as the answer to its conversation.

        Args:
            choices: of each conversation, one or more texts.
            end_of_turn: count the end of the turn behind a choice, too.
            task: which of a recipe's questions all of them are, for a model that has learned each apart.
            pruning: which choices may be left unread; a model may read them nevertheless. None reads all.
            title: in front of a progress bar; none for an empty one.

        Raises:
            NotImplementedError: the model doesn't tell, as many endpoints don't.
        """

    def stream(self, conversation: Conversation, sampling: Sampling) -> Iterator[str]:
        """The answer to a conversation in pieces, as they are written."""
