"""The one trainer, over TRL's `SFTTrainer`, and what it minimises: an objective."""

from workbench.training.activations import Place
from workbench.training.callbacks import Limit, Told, Watched
from workbench.training.configuration import steps_in
from workbench.training.extra import check_extra
from workbench.training.inputs import TrainingRows, training_rows
from workbench.training.loop import train
from workbench.training.loss import mean_completion_loss
from workbench.training.objectives import find_objective
from workbench.training.record import Trained

__all__ = [
    "Limit",
    "Place",
    "Told",
    "Trained",
    "TrainingRows",
    "Watched",
    "check_extra",
    "find_objective",
    "mean_completion_loss",
    "steps_in",
    "train",
    "training_rows",
]
