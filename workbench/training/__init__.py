"""The one trainer, over TRL's `SFTTrainer`."""

from workbench.training.loss import mean_completion_loss
from workbench.training.trainer import CHECKED, Trained, steps_in, train

__all__ = ["CHECKED", "Trained", "mean_completion_loss", "steps_in", "train"]
