"""A small reranker: likelihoods of choices put together with what else is known of them, such as their popularity."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from workbench.data import Example
from workbench.evaluation.calibration import log_softmax
from workbench.evaluation.prediction import Prediction

LIKELIHOOD = "likelihood"
# Standard deviation of the weights' prior, in units of a feature's own.
PRIOR = 3.0

Features = Callable[[Example], Mapping[str, Sequence[float]]]


@dataclass(frozen=True, kw_only=True)
class Reranker:
    """Weights of a conditional logit: a choice's probability is the softmax of a weighted sum (McFadden 1974).

    Attributes:
        weights: by feature, in units of its standard deviation; `likelihood` is the model's log-probability.
        deviations: of the features over all choices of the examples it was fitted on.
    """

    weights: Mapping[str, float]
    deviations: Mapping[str, float]

    def log_probabilities(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Of the choices of an example, (choices,), from the values of each feature."""
        sums = [self.weights[name] / self.deviations[name] * columns[name] for name in self.weights]
        return log_softmax(np.sum(sums, axis=0))


def columns_of(example: Example, answer: Prediction, features: Features) -> dict[str, np.ndarray]:
    """The features of an example's choices, the model's log-probability among them."""
    likelihood = np.array([answer.choices[choice] for choice in example.choices])
    return {LIKELIHOOD: likelihood, **{name: np.array(values) for name, values in features(example).items()}}


def fit_reranker(examples: Sequence[Example], answers: Sequence[Prediction], features: Features) -> Reranker:
    """Fit a reranker to examples that the model was not trained on.

    Args:
        examples: with their right choices.
        answers: the model's, in the same order.
    """
    from scipy.optimize import minimize

    tables = [columns_of(example, answer, features) for example, answer in zip(examples, answers, strict=True)]
    right = [example.choices.index(example.completion) for example in examples]
    names = list(tables[0])
    deviations = {name: float(np.concatenate([table[name] for table in tables]).std()) or 1.0 for name in names}
    scaled = [np.stack([table[name] / deviations[name] for name in names], axis=1) for table in tables]

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = float(weights @ weights) / (2 * PRIOR**2), weights / PRIOR**2
        for rows, index in zip(scaled, right, strict=True):
            logs = log_softmax(rows @ weights)
            value -= float(logs[index])
            slope = slope + np.exp(logs) @ rows - rows[index]
        return value, slope

    found = minimize(loss, np.zeros(len(names)), jac=True, method="L-BFGS-B")
    return Reranker(weights=dict(zip(names, map(float, found.x), strict=True)), deviations=deviations)


def reranked(
    reranker: Reranker, examples: Sequence[Example], answers: Sequence[Prediction], features: Features
) -> list[Prediction]:
    """The answers as the reranker orders the choices."""
    found = []
    for example, answer in zip(examples, answers, strict=True):
        logs = reranker.log_probabilities(columns_of(example, answer, features))
        choices = dict(zip(example.choices, map(float, logs), strict=True))
        found.append(
            replace(
                answer,
                prediction=max(example.choices, key=choices.__getitem__),
                choices=choices,
                nll=-choices[example.completion] if example.completion else answer.nll,
                tokens=0,
            )
        )
    return found
