"""The one trainer, over TRL's `SFTTrainer`."""

from workbench.training.trainer import Trained, steps_in, train

__all__ = ["Trained", "steps_in", "train"]
