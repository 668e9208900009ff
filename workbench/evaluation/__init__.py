"""The one harness: answers, likelihoods, metrics with intervals."""

from workbench.evaluation.answers import Answer, answer_all, generation_config
from workbench.evaluation.metrics import Metric, find_metric, known_metrics
from workbench.evaluation.predictions import read_answers, write_answers
from workbench.evaluation.scores import Score, score_all

__all__ = [
    "Answer",
    "Metric",
    "Score",
    "answer_all",
    "find_metric",
    "generation_config",
    "known_metrics",
    "read_answers",
    "score_all",
    "write_answers",
]
