"""The reranker finds what the model alone doesn't know."""

import math

import numpy as np
import pytest

from workbench.data import choice
from workbench.evaluation import Prediction, find_metric
from workbench.evaluation.reranker import LIKELIHOOD, fit_reranker, reranked

FILMS = tuple(f"film {number}" for number in range(20))


def test_it_weighs_features_by_what_they_tell() -> None:
    random = np.random.default_rng(0)
    popularity = {}
    examples, answers = [], []
    for number in range(400):
        noisy, popular = random.normal(size=20), random.normal(size=20)
        useless = random.normal(size=20)
        truth = 0.5 * noisy + 1.5 * popular
        right = int(random.choice(20, p=np.exp(truth) / np.exp(truth).sum()))
        example = choice({"id": str(number)}, "?", FILMS, FILMS[right])
        popularity[example.id] = {"popularity": list(1000 * popular), "useless": list(useless)}
        examples.append(example)
        logs = 3 * noisy - np.log(np.exp(3 * noisy).sum())
        answers.append(
            Prediction(
                id=example.id, split="test", prompt="", reference=example.completion, prediction=FILMS[0], nll=1.0,
                tokens=2, choices=dict(zip(FILMS, map(float, logs), strict=True)),
            )
        )  # fmt: skip

    def features(example: object) -> dict[str, list[float]]:
        return popularity[example.id]  # type: ignore[attr-defined]

    reranker = fit_reranker(examples[:200], answers[:200], features)  # type: ignore[arg-type]
    assert reranker.weights["popularity"] == pytest.approx(1.5, abs=0.3)
    assert reranker.weights[LIKELIHOOD] == pytest.approx(0.5, abs=0.25)
    assert abs(reranker.weights["useless"]) < 0.25
    auc = find_metric("auc")
    together = reranked(reranker, examples[200:], answers[200:], features)  # type: ignore[arg-type]
    assert auc.value(together) > auc.value(answers[200:]) + 0.15
    assert all(sum(map(math.exp, answer.choices.values())) == pytest.approx(1) for answer in together)
