"""Whether a file in another format is what was trained, told by the software that will run it."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from workbench.export.formats.format import Likeliest, Runtime
from workbench.export.interface import Interface, prompt_misfit
from workbench.results import Comparison, Score

# The likeliest tokens of the file that are asked for at each position; the others count together as one.
LIKELIEST = 64
# Positions of each sequence, from its end.
POSITIONS = 8
# Nats per token that sums in another order and float16 leave; and how many times as far away the base must be, from a
# file of floats and from a quantized one.
FLOAT_DIVERGENCE = 1e-3
FLOAT_BASE_TIMES, BASE_TIMES = 100, 2
# Of a difference that can't be luck.
SIGNIFICANT = 0.05


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a file is held against.

    Attributes:
        prefixes: token ids, behind which distributions are compared.
        logs: log-probabilities of the trained model behind each, (prefixes, vocabulary).
        base_logs: those of the base.
        texts: of the held-out prompts, the trained model's greedy answers, none for choices.
        prompts: their token ids.
        interface: gives how it was asked.
        new_entries: of the vocabulary, that stand for a soft prompt in front of every text.
        max_new_tokens: of an answer.
    """

    prefixes: Sequence[Sequence[int]]
    logs: torch.Tensor
    base_logs: torch.Tensor
    texts: Sequence[str]
    prompts: Sequence[Sequence[int]]
    interface: Callable[[], Interface]
    new_entries: Sequence[int] = ()
    max_new_tokens: int = 1


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a file, read back by its runtime, compares.

    Attributes:
        holds: it may be shipped.
        reason: why not.
        divergence: Kullback-Leibler divergence of its next tokens from the trained model's, nats per token, at least:
            what is not among its likeliest counts as one token.
        base_divergence: that of the base.
        token_agreement: share of positions with the same likeliest token.
        text_agreement: share of held-out prompts with the same greedy text; None where choices are asked for.
        tokens_per_second: that it wrote; a runtime that answers several prompts at once did so.
        score, adapter_score: the headline of the file and of what the run scored, on the same examples.
        comparison: of both, the file's minus the run's.
    """

    holds: bool
    reason: str | None = None
    divergence: float | None = None
    base_divergence: float | None = None
    token_agreement: float | None = None
    text_agreement: float | None = None
    tokens_per_second: float | None = None
    score: Score | None = None
    adapter_score: Score | None = None
    comparison: Comparison | None = None


def read_back(runtime: Runtime, trained: Trained, rounded: bool) -> Verdict:
    """Ask a file what the trained model was asked, all but the score.

    Args:
        rounded: it is coarser than what was scored: how far it may be is for its score to say.
    """
    before = trained.interface()
    try:
        prompts, texts = runtime.prompt_ids(before.conversations), runtime.text_ids(before.texts)
        if reason := prompt_misfit(prompts, texts, before, trained.new_entries):
            reason = prompt_misfit(prompts, texts, trained.interface(), trained.new_entries)  # it may be another day
        if reason:
            return Verdict(holds=False, reason=reason)
        found = runtime.likeliest(trained.prefixes, LIKELIEST, "next tokens")
        began = time.perf_counter()
        answers = runtime.continued(trained.prompts, trained.max_new_tokens, "answers") if trained.texts else []
        seconds = time.perf_counter() - began
    except RuntimeError as error:
        return Verdict(holds=False, reason=f"its runtime could not run it: {error}")
    same = [a.text.strip() == text.strip() for a, text in zip(answers, trained.texts, strict=True)]
    verdict = Verdict(
        holds=True,
        divergence=divergence(trained.logs, found),
        base_divergence=float((trained.logs.exp() * (trained.logs - trained.base_logs)).sum(dim=1).mean()),
        token_agreement=float(
            np.mean([int(a.argmax()) == _best(b, len(a)) for a, b in zip(trained.logs, found, strict=True)])
        ),
        text_agreement=float(np.mean(same)) if same else None,
        tokens_per_second=sum(len(answer.tokens) for answer in answers) / seconds if answers else None,
    )
    reason = _too_far(verdict, rounded)
    return Verdict(**{**vars(verdict), "holds": reason is None, "reason": reason})


def _best(found: Likeliest, known: int) -> int:
    """The likeliest token that is no part of a soft prompt."""
    return next((token for token, _ in found if token < known), -1)


def divergence(logs: torch.Tensor, found: Sequence[Likeliest]) -> float:
    """Kullback-Leibler divergence from what a file finds likeliest, in nats per position, at least.

    Of a file whose vocabulary holds a soft prompt it is that among its likeliest tokens alone.

    Args:
        logs: log-probabilities of the trained model, (positions, vocabulary).
    """
    total = 0.0
    for right, one in zip(logs.double(), found, strict=True):
        known = [(token, log) for token, log in one if token < len(right)]  # the others stand for a soft prompt
        given = torch.tensor([log for _, log in known], dtype=torch.float64)
        named = right[[token for token, _ in known]]
        if len(known) < len(one):  # how likely the others are hangs on what those of the prompt leave: next to nothing
            given = given + named.logsumexp(dim=0) - given.logsumexp(dim=0)
        rest, given_rest = (max(1.0 - float(part.exp().sum()), 1e-12) for part in (named, given))
        total += float((named.exp() * (named - given)).sum()) + rest * math.log(rest / given_rest)
    return max(total / len(found), 0.0)


def _too_far(verdict: Verdict, rounded: bool) -> str | None:
    found, base = verdict.divergence, verdict.base_divergence
    assert found is not None
    assert base is not None
    if not math.isfinite(found) or (not rounded and found > FLOAT_DIVERGENCE):
        return (
            f"its next tokens are {found:.2g} nats from the trained model's, where float16 leaves {FLOAT_DIVERGENCE:g}"
        )
    if base < (BASE_TIMES if rounded else FLOAT_BASE_TIMES) * found:
        why = ": too few bits for what was learned" if rounded else ""
        return f"its next tokens are {found:.2g} nats from the trained model's, those of the base {base:.2g}{why}"
    return None


def scored(verdict: Verdict, comparison: Comparison, higher_is_better: bool, accept_loss: bool) -> Verdict:
    """A verdict that holds, with the score of that very file.

    Args:
        comparison: of the headline, the file's minus the run's.
        accept_loss: a significant loss is accepted.
    """
    lost = comparison.difference < 0 if higher_is_better else comparison.difference > 0
    reason = None
    if lost and comparison.p < SIGNIFICANT and not accept_loss:
        reason = (
            f"it scores {comparison.difference:+.2f} [{comparison.low:.2f}, {comparison.high:.2f}] {comparison.metric} "
            f"beside what was trained (p {comparison.p:.3f}, {comparison.items} examples): more bits, or --accept-loss"
        )
    return Verdict(**{**vars(verdict), "holds": reason is None, "reason": reason, "comparison": comparison})


def verdict_text(verdict: Verdict) -> str:
    """A verdict that holds, for people."""
    two, one = verdict.comparison, verdict.score
    assert two is not None
    assert one is not None
    lines = [
        f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}] {two.metric}[{two.split}], {two.difference:+.2f} "
        f"[{two.low:.2f}, {two.high:.2f}] beside what was trained (p {two.p:.3f}, {two.items} examples)",
        f"next tokens {verdict.divergence:.2g} nats away (the base {verdict.base_divergence:.2g}), the likeliest one "
        f"the same at {verdict.token_agreement:.1%} of positions",
    ]
    if verdict.text_agreement is not None:
        lines.append(f"the same answer to {verdict.text_agreement:.1%} of held-out prompts")
    if verdict.tokens_per_second is not None:
        lines.append(f"{verdict.tokens_per_second:.0f} tokens a second")
    return "\n".join(lines)
