"""The one harness: answers, likelihoods, metrics with intervals."""

from workbench.evaluation.answers import answer_all, generation_config
from workbench.evaluation.calibration import Calibration, ChoiceScorer, fit_calibration
from workbench.evaluation.intervals import Score, score_all
from workbench.evaluation.metrics import Metric, find_metric, find_metrics, known_metrics
from workbench.evaluation.prediction import Prediction
from workbench.evaluation.predictions import read_predictions, write_predictions

__all__ = [
    "Calibration",
    "ChoiceScorer",
    "Metric",
    "Prediction",
    "Score",
    "answer_all",
    "find_metric",
    "find_metrics",
    "fit_calibration",
    "generation_config",
    "known_metrics",
    "read_predictions",
    "score_all",
    "write_predictions",
]
