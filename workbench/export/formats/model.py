"""An exported file as a language model: what it answers, and how likely it finds choices, told by its own runtime."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from workbench.console import progress_bar
from workbench.data.render import Renderer
from workbench.data.turns import trimmed
from workbench.export.formats.format import Runtime
from workbench.generation.language_model import ChoiceLikelihoods, Conversation, Generated
from workbench.generation.pruning import Pruning
from workbench.generation.sampling import Sampling

# Tokens of which the log-probability is asked for at once; what is not among them is asked for among all.
LIKELIEST = 512


class RuntimeModel:
    """A file in its runtime; implements `LanguageModel` for greedy answers and for choices.

    Args:
        runtime: with the file.
        renderer: of its prompts.
        entries: of the vocabulary.
    """

    def __init__(self, runtime: Runtime, renderer: Renderer, entries: int) -> None:
        self.runtime, self.renderer, self.entries = runtime, renderer, entries

    def prompt(self, conversation: Conversation) -> str:
        """The exact text the file is given."""
        return self.renderer.prompt(conversation)

    def generate(
        self,
        conversations: Sequence[Conversation],
        sampling: Sampling,
        *,
        references: Sequence[str] | None = None,
        title: str = "",
    ) -> list[Generated]:
        """Answer every conversation greedily; likelihoods of references are not told."""
        prompts = self.renderer.prompts(conversations)
        answers = self.runtime.continued([ids for _, ids in prompts], sampling.max_new_tokens, title)
        decode = self.renderer.tokenizer.decode
        return [
            Generated(
                prompt=text,
                text=trimmed(decode(list(answer.tokens), skip_special_tokens=True)),
                tokens=len(answer.tokens),
                finish_reason="stop" if answer.stopped else "length",
            )
            for (text, _), answer in zip(prompts, answers, strict=True)
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
        """How likely each choice is as the answer to its conversation; all are read."""
        ids = self.renderer.completions({choice for some in choices for choice in some})
        cut = None if end_of_turn else -1
        prompts = [tokens for _, tokens in self.renderer.prompts(conversations)]
        found = []
        with progress_bar(title, total=len(prompts), unit="text") as bar:
            for prompt, some in zip(prompts, choices, strict=True):
                asked = [tuple(ids[choice][:cut]) for choice in some]
                found.append(_likelihoods(asked, self._logs(prompt, asked)))
                bar.update()
        return found

    def _logs(self, prompt: list[int], choices: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], dict[int, float]]:
        """Log-probabilities of the tokens that can follow, behind the prompt and behind each beginning of a choice."""
        prefixes = sorted({choice[:length] for choice in choices for length in range(len(choice))})
        wanted = {p: {choice[len(p)] for choice in choices if len(choice) > len(p) and choice[: len(p)] == p}
                  for p in prefixes}  # fmt: skip
        known: dict[tuple[int, ...], dict[int, float]] = {}
        for count in (LIKELIEST, self.entries):
            left = [prefix for prefix in prefixes if wanted[prefix] - set(known.get(prefix, ()))]
            answers = self.runtime.likeliest([[*prompt, *prefix] for prefix in left], count)
            for prefix, one in zip(left, answers, strict=True):
                known[prefix] = {token: log for token, log in one if token in wanted[prefix]}
        return {p: {token: known[p].get(token, -math.inf) for token in wanted[p]} for p in prefixes}

    def stream(self, conversation: Conversation, sampling: Sampling) -> Iterator[str]:
        """The answer, in one piece."""
        yield self.generate([conversation], sampling)[0].text


def _likelihoods(
    choices: Sequence[tuple[int, ...]], logs: dict[tuple[int, ...], dict[int, float]]
) -> ChoiceLikelihoods:
    """Likelihoods of the choices of one prompt.

    Args:
        logs: token ids behind the prompt -> log-probabilities of the tokens that can follow in some choice.
    """
    steps = [[(choice[:n], choice[n]) for n in range(len(choice))] for choice in choices]
    plain = [sum(logs[prefix][token] for prefix, token in some) for some in steps]
    branches = {prefix: float(np.logaddexp.reduce(list(one.values()))) for prefix, one in logs.items()}
    begins_another = any(choice in logs for choice in choices)
    constrained = [sum(logs[prefix][token] - branches[prefix] for prefix, token in some) for some in steps]
    return ChoiceLikelihoods(
        logprobs=np.array(plain),
        tokens=np.array([len(choice) for choice in choices]),
        constrained=None if begins_another else np.array(constrained),
    )
