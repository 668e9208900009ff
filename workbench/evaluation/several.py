"""Questions with several right choices at once (multi-label): which labels are taken, by a threshold for each."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from workbench.data.examples import Example, together
from workbench.evaluation.prediction import Prediction

# Where no validation example has a label, nothing tells a better one.
EVEN = 0.5


def fit_thresholds(probabilities: np.ndarray, right: np.ndarray) -> list[float]:
    """The threshold of each label above which it is taken: that of the best F1, halfway to the next probability.

    Args:
        probabilities: (examples, labels).
        right: whether an example has a label, likewise.
    """
    return [_threshold(column, truth) for column, truth in zip(probabilities.T, right.T, strict=True)]


def _threshold(probabilities: np.ndarray, right: np.ndarray) -> float:
    """Of one label, (examples,) each; of equals the nearest to one half."""
    if not right.any():
        return EVEN
    values = np.unique(probabilities)
    tried = np.array([values[0] / 2, *(values[1:] + values[:-1]) / 2, EVEN])
    order = np.argsort(probabilities)
    below = np.searchsorted(probabilities[order], tried, side="right")  # that are not taken
    rights_below = np.concatenate([[0], np.cumsum(right[order])])[below]
    f1 = 2 * (right.sum() - rights_below) / (len(right) - below + right.sum())
    best = tried[f1 == f1.max()]
    return float(best[np.abs(best - EVEN).argmin()])


def taken_labels(log_probabilities: Mapping[str, float], thresholds: Mapping[str, float]) -> tuple[str, ...]:
    """The labels whose probability is above their threshold."""
    return tuple(name for name, log in log_probabilities.items() if math.exp(log) > thresholds[name])


def predicted(
    example: Example, log_probabilities: Sequence[float], thresholds: Mapping[str, float], prompt: str, split: str
) -> Prediction:
    """What was taken for an example, its right labels known or not.

    Args:
        log_probabilities: of each choice, whatever the others are.
        thresholds: by choice.
        prompt: the exact text that the model was given.
    """
    logs = dict(zip(example.choices, map(float, log_probabilities), strict=True))
    chosen = taken_labels(logs, thresholds)
    return Prediction(
        id=example.id,
        split=split,
        prompt=prompt,
        reference=example.completion,
        prediction=together(chosen),
        nll=math.nan if example.labels is None else _nll(logs, example.labels),
        tokens=0,
        groups=example.groups,
        source=example.source,
        choices=logs,
        right=example.labels,
        chosen=chosen,
    )


def _nll(logs: Mapping[str, float], right: Sequence[str]) -> float:
    """Negative log-likelihood of exactly these labels, in nats."""
    return -sum(log if name in right else math.log(max(-math.expm1(log), 1e-300)) for name, log in logs.items())
