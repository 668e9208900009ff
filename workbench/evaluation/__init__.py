"""The one harness: predictions, calibration, metrics with intervals."""

from workbench.evaluation.calibration import Calibration, choose, fit_calibrations
from workbench.evaluation.intervals import score_all
from workbench.evaluation.metrics import Metric, find_metric, find_metrics, known_metrics
from workbench.evaluation.predict import predict
from workbench.evaluation.prediction import Prediction
from workbench.evaluation.predictions import read_predictions, write_predictions

__all__ = [
    "Calibration",
    "Metric",
    "Prediction",
    "choose",
    "find_metric",
    "find_metrics",
    "fit_calibrations",
    "known_metrics",
    "predict",
    "read_predictions",
    "score_all",
    "write_predictions",
]
