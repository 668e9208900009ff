"""What a run found, as `results.json` keeps it.

This part alone knows the file's keys, which are the fields of its dataclasses.
"""

from workbench.results.comparison import Comparison, SeedsRecord
from workbench.results.conditions import (
    Budget,
    CheckpointInfo,
    DataInfo,
    MetricInfo,
    NearCopies,
    Price,
    Seconds,
    SplitContents,
    SplitInfo,
    price,
)
from workbench.results.curve import Crossing, CurvePoint, CurveRecord
from workbench.results.records import DONE, FAILED, Changes, ExportRecord, Forecast, RunRecord, Score, Usage
from workbench.results.tuning import TuningRecord, TuningTrial
from workbench.results.whole import SCHEMA, Results
from workbench.results.written import read_results, to_json, write_results

__all__ = [
    "DONE",
    "FAILED",
    "SCHEMA",
    "Budget",
    "Changes",
    "CheckpointInfo",
    "Comparison",
    "Crossing",
    "CurvePoint",
    "CurveRecord",
    "DataInfo",
    "ExportRecord",
    "Forecast",
    "MetricInfo",
    "NearCopies",
    "Price",
    "Results",
    "RunRecord",
    "Score",
    "Seconds",
    "SeedsRecord",
    "SplitContents",
    "SplitInfo",
    "TuningRecord",
    "TuningTrial",
    "Usage",
    "price",
    "read_results",
    "to_json",
    "write_results",
]
