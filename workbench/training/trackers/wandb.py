"""Weights & Biases: online where WANDB_API_KEY or WANDB_MODE says so, else offline, for `wandb sync` later."""

import os
from collections.abc import Mapping
from typing import Any

from workbench.training.trackers.tracker import Tracked, Tracker


class Wandb:
    """A run of Weights & Biases, in the project of the recipe; neither code nor machine is told."""

    def __init__(self, tracked: Tracked) -> None:
        import wandb

        mode: Any = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
        self.run = wandb.init(
            project=tracked.project,
            group=tracked.group,
            name=tracked.name,
            id=tracked.id,
            resume="allow",
            config=dict(tracked.settings),
            dir=str(tracked.folder.parent),
            mode=mode,
            reinit="create_new",
            settings=wandb.Settings(
                console="off", disable_git=True, save_code=False, silent=True, x_disable_stats=True, x_disable_meta=True
            ),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracking`."""
        self.run.log(dict(values), step=step)

    def close(self, scores: Mapping[str, float]) -> None:
        """See `Tracking`."""
        self.run.summary.update(dict(scores))
        self.run.finish(exit_code=0 if scores else 1)


TRACKERS = (Tracker(name="wandb", package="wandb", begin=Wandb),)
