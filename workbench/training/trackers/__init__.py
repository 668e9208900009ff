"""Trackers by name. To add one, put a module with a tuple `TRACKERS` in this folder; it is found by being there.

Another package adds its own by an entry point of the group `workbench.trackers`, see `workbench.plugins`.
"""

import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache

from workbench.errors import UserError, unknown
from workbench.plugins import registered
from workbench.training.trackers.tracker import Tracked, Tracker, Tracking

__all__ = ["Several", "Tracked", "Tracker", "Tracking", "known_trackers", "require_trackers"]

logger = logging.getLogger(__name__)
# Without being asked for.
ALWAYS = "tensorboard"


@cache
def known_trackers() -> dict[str, Tracker]:
    """All trackers, by name, in the order of the modules of this folder; those of other packages behind them.

    Raises:
        UserError: another package's tracker can't be loaded, or has a name that is taken.
    """
    return registered(__name__, __path__, "TRACKERS", Tracker, "workbench.trackers")


def require_trackers(names: Sequence[str]) -> None:
    """See that trackers are there, before anything is trained.

    Raises:
        UserError: there is none of a name, or its package is not installed.
    """
    for name in names:
        if name not in known_trackers():
            raise unknown("tracker", name, known_trackers())
        package = known_trackers()[name].package
        if importlib.util.find_spec(package) is None:
            raise UserError(f"--track {name} needs the package {package}: pip install 'workbench[{name}]'")


class Several:
    """Trackings as one. What one of them raises is said, and it is asked no more: no training is lost for it."""

    def __init__(self, names: Sequence[str], tracked: Tracked) -> None:
        self.trackings: dict[str, Tracking] = {}
        for name in names:
            with self._said(name):
                self.trackings[name] = known_trackers()[name].begin(tracked)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracking`."""
        for name, tracking in list(self.trackings.items()):
            with self._said(name):
                tracking.log(values, step)

    def close(self, scores: Mapping[str, float]) -> None:
        """See `Tracking`."""
        for name, tracking in list(self.trackings.items()):
            with self._said(name):
                tracking.close(scores)

    @contextmanager
    def _said(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            logger.warning("%s: nothing more is tracked: %s: %s", name, type(error).__name__, error)
            logger.debug("%s failed", name, exc_info=True)
            self.trackings.pop(name, None)
