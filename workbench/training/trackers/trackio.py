"""Trackio: in its folder on this machine, TRACKIO_DIR or the one in the cache of Hugging Face."""

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout

from workbench.training.trackers.tracker import Tracked, Tracker


class Trackio:
    """A run of Trackio, in the project of the recipe. What it prints goes to stderr, as progress does."""

    def __init__(self, tracked: Tracked) -> None:
        import trackio

        self.trackio = trackio
        with redirect_stdout(sys.stderr):
            trackio.init(
                project=tracked.project,
                name=f"{tracked.group}/{tracked.name}",
                group=tracked.group,
                config=dict(tracked.settings),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracking`."""
        self.trackio.log(dict(values), step=step)

    def close(self, scores: Mapping[str, float]) -> None:
        """See `Tracking`."""
        with redirect_stdout(sys.stderr):
            if scores:
                self.trackio.log(dict(scores))
            self.trackio.finish()


TRACKERS = (Tracker(name="trackio", package="trackio", begin=Trackio),)
