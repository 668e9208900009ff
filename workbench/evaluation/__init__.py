"""The one harness: answers, likelihoods, metrics with intervals."""

from workbench.evaluation.answer import Answer
from workbench.evaluation.answers import answer_all, generation_config
from workbench.evaluation.choosing import Chooser, Choosing, fit_choosing
from workbench.evaluation.metrics import Metric, find_metric, known_metrics
from workbench.evaluation.predictions import read_answers, write_answers
from workbench.evaluation.scores import Score, score_all

__all__ = [
    "Answer",
    "Chooser",
    "Choosing",
    "Metric",
    "Score",
    "answer_all",
    "find_metric",
    "fit_choosing",
    "generation_config",
    "known_metrics",
    "read_answers",
    "score_all",
    "write_answers",
]
