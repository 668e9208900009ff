"""How the next token is taken from a model's logits, and when an answer ends."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from workbench.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How an answer is written.

    Attributes:
        max_new_tokens: most tokens of an answer.
        temperature: by which logits are divided before a token is drawn; 0 takes the likeliest one (greedy).
        top_p: draw from the smallest set of tokens whose probability is at least this (Holtzman et al. 2020,
            arXiv:1904.09751); 1 for all.
        top_k: draw from the likeliest so many tokens (Fan et al. 2018, arXiv:1805.04833); 0 for all.
        seed: of what is drawn. The same prompt at the same place among others gets the same answer.
        stop: texts at which an answer ends; they don't stand in it.

    Raises:
        UserError: a value out of its range.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, holds, rule in (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", self.temperature >= 0, "at least 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", self.top_k >= 0, "at least 0"),
            ("stop", all(self.stop), "texts that are not empty"),
        ):
            if not holds:
                raise UserError(f"{name} must be {rule}, not {getattr(self, name)!r}")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0


class Sampler:
    """Takes the next token of each row of a batch. What is drawn for a row does not depend on the others.

    Args:
        sampling: how.
        rows: place of each row among all prompts, which its random numbers hang on.
    """

    def __init__(self, sampling: Sampling, rows: Sequence[int]) -> None:
        self.sampling = sampling
        seeds = () if sampling.greedy else (hash((sampling.seed, row)) % 2**63 for row in rows)
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def of(self, rows: Sequence[int]) -> "Sampler":
        """The same for some of the rows."""
        part = Sampler(self.sampling, [])
        part.generators = [self.generators[row] for row in rows] if self.generators else []
        return part

    def next_tokens(self, logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """The next tokens, (rows,).

        Args:
            logits: (rows, vocabulary).
            rows: which row of the batch, as it began, each of them is.
        """
        if self.sampling.greedy:
            return logits.argmax(dim=-1)
        probabilities = likely_tokens(logits.float() / self.sampling.temperature, self.sampling).cpu()
        drawn = [
            torch.multinomial(row, 1, generator=self.generators[number])
            for row, number in zip(probabilities, rows, strict=True)
        ]
        return torch.cat(drawn).to(logits.device)


def likely_tokens(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Probabilities with those of unlikely tokens 0, as `top_k` and then `top_p` say; they need not sum to 1.

    Args:
        logits: (rows, vocabulary), divided by the temperature.
    """
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probabilities = torch.softmax(logits, dim=-1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        before = ordered.cumsum(dim=-1) - ordered
        ordered[before >= sampling.top_p] = 0
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
    return probabilities
