"""What a training changed beside what was asked of it: what was forgotten, and what of its data shows from outside."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import torch
from torch import nn

from workbench.data.figures import FIGURE
from workbench.data.render import Rendered
from workbench.generation.context import most_logits, tokens_at_once
from workbench.results import Score
from workbench.training.loss import batches_of_like_length, labelled_output

# Tokens of a passage of the general text that are read: every model's context has room for them.
PASSAGE = 96
RESAMPLES = 1000
# A word with a capital behind a small letter or a comma, and those that follow it: what begins a sentence is no name.
NAME = re.compile(r"(?<=[a-zà-ÿ,;:] )[A-ZÀ-Þ][\w'’-]+(?: [A-ZÀ-Þ][\w'’-]+)*")


@dataclass(frozen=True, kw_only=True)
class TokenLosses:
    """How likely a model finds the tokens of an answer, given the prompt and what stands before each.

    Attributes:
        losses: negative log-likelihoods in nats, (tokens,).
        greedy: whether each is the likeliest there, (tokens,).
    """

    losses: np.ndarray
    greedy: np.ndarray

    @property
    def mean(self) -> float:
        """Nats per token."""
        return float(self.losses.mean())


@torch.inference_mode()
def token_losses(model: nn.Module, rendered: Sequence[Rendered], pad_id: int) -> list[TokenLosses]:
    """How likely a model finds answers, each token given what stands before it.

    Args:
        model: a causal language model in evaluation mode.
        pad_id: fills up shorter rows; it is never attended to.
    """
    if not rendered:
        return []
    longest = max(one.length for one in rendered)
    together = max(1, min(tokens_at_once(model), most_logits(model, linear_output=False)) // longest)
    order = sorted(range(len(rendered)), key=lambda number: rendered[number].length)
    found: dict[int, TokenLosses] = {}
    batches = batches_of_like_length(model, rendered, pad_id, together)
    for start, batch in zip(range(0, len(order), together), batches, strict=True):
        logits, targets, rows = labelled_output(model, **batch, hidden=False)
        losses = nn.functional.cross_entropy(logits.float(), targets, reduction="none")
        likeliest = logits.argmax(dim=-1) == targets
        for row, number in enumerate(order[start : start + together]):
            own = rows == row
            found[number] = TokenLosses(losses=losses[own].cpu().double().numpy(), greedy=likeliest[own].cpu().numpy())
    return [found[number] for number in range(len(rendered))]


@cache
def general_text() -> list[str]:
    """Passages in English and Chinese about this and that, written for this project."""
    text = resources.files("workbench.evaluation").joinpath("general.txt").read_text(encoding="utf-8")
    return text.strip().split("\n\n")


def general_loss(model: nn.Module, tokenizer: Any) -> float:
    """Nats per token on the general text; what it is more than the base's was forgotten.

    Args:
        model: in evaluation mode.
    """
    passages = [tokenizer(text, add_special_tokens=True).input_ids[:PASSAGE] for text in general_text()]
    rendered = [Rendered(id="", text="", prompt_ids=ids[:1], completion_ids=ids[1:]) for ids in passages]
    losses = token_losses(model, rendered, tokenizer.pad_token_id or 0)
    return float(np.concatenate([one.losses for one in losses]).mean())


def membership(seen: Sequence[float], unseen: Sequence[float], seed: int = 0) -> Score:
    """How well losses tell what was trained on from what was not (Yeom et al. 2018, arXiv:1709.01604).

    Args:
        seen, unseen: losses of examples that were trained on, and of others of the same kind.
        seed: of the bootstrap.

    Returns:
        The area under the ROC curve: how often an example that was trained on has the lower loss; 0.5 tells nothing.
        With a 95 % bootstrap interval over the examples of both.
    """
    inside, outside = np.asarray(seen, dtype=float), np.asarray(unseen, dtype=float)
    lower = (inside[:, None] < outside) + 0.5 * (inside[:, None] == outside)
    drawn = np.random.default_rng(seed)
    areas = []
    for _ in range(RESAMPLES):
        # How often each was drawn.
        of_inside = np.bincount(drawn.integers(len(inside), size=len(inside)), minlength=len(inside))
        of_outside = np.bincount(drawn.integers(len(outside), size=len(outside)), minlength=len(outside))
        areas.append(of_inside @ lower @ of_outside / lower.size)
    value, (low, high) = float(lower.mean()), np.quantile(areas, [0.025, 0.975])
    least = 1 - 0.025 ** (1 / min(len(inside), len(outside)))  # as `score_of` bounds a score of 0 or 100
    low, high = min(float(low), value - least * value), max(float(high), value + least * (1 - value))
    return Score(value=value, low=low, high=high)


def told_spans(answer: str, prompt: str) -> list[tuple[int, int]]:
    """Where figures and names stand in an answer that do not stand in its prompt: begin and end of each."""
    found = [match for pattern in (FIGURE, NAME) for match in pattern.finditer(answer)]
    return sorted(match.span() for match in found if match[0] not in prompt)


def verbatim(
    tokenizer: Any, rendered: Sequence[Rendered], prompts: Sequence[str], losses: Sequence[TokenLosses]
) -> tuple[int, int]:
    """How many figures and names of answers a model would write itself, given all that stands before each.

    Args:
        rendered: examples with their tokens.
        prompts: what stands in the prompt of each: what is read there need not be known by heart.
        losses: of each.

    Returns:
        How many, and of how many.
    """
    said = told = 0
    for one, prompt, loss in zip(rendered, prompts, losses, strict=True):
        spans = told_spans(tokenizer.decode(one.completion_ids, skip_special_tokens=True), prompt)
        ends = _ends(tokenizer, one.completion_ids if spans else [])
        for begin, end in spans:
            begins = np.concatenate([[0], ends[:-1]])
            inside = (ends > begin) & (begins < end)
            told += 1
            said += bool(loss.greedy[inside].all())
    return said, told


def _ends(tokenizer: Any, ids: Sequence[int]) -> np.ndarray:
    """Letters of the text up to the end of each token, (tokens,)."""
    return np.array([len(tokenizer.decode(ids[:count], skip_special_tokens=True)) for count in range(1, len(ids) + 1)])
