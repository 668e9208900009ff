"""The one trainer, over TRL's `SFTTrainer`."""

from workbench.training.extra import check_extra
from workbench.training.loss import mean_completion_loss
from workbench.training.rows import TrainingRows, training_rows
from workbench.training.trainer import Trained, steps_in, train

__all__ = ["Trained", "TrainingRows", "check_extra", "mean_completion_loss", "steps_in", "train", "training_rows"]
