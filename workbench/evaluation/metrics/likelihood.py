"""How likely the model finds the reference."""

import math
from collections.abc import Sequence

import numpy as np

from workbench.evaluation.metrics.metric import Metric
from workbench.evaluation.prediction import Prediction


def likelihood_statistics(answers: Sequence[Prediction]) -> np.ndarray:
    """Nats and tokens of the references: (answers, 2)."""
    return np.array([(answer.nll, answer.tokens) for answer in answers], dtype=float).reshape(-1, 2)


def perplexity_score(sums: np.ndarray) -> float:
    """Exponential of the mean negative log-likelihood of a token."""
    return math.exp(min(sums[0] / sums[1], 700.0))


METRICS = (
    Metric(
        name="perplexity",
        title="perplexity",
        summary="of references given the prompts, per token; compare it only between models with one tokenizer.",
        statistics=likelihood_statistics,
        score=perplexity_score,
        higher_is_better=False,
        worst=math.inf,
        best=1,
        needs_all_choices=False,
        applies=lambda answer: answer.tokens > 0 and not answer.choices,
        signature=lambda answers: "natural, completion and end of turn, given the prompt",
    ),
)
