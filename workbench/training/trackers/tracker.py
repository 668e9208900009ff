"""What a tracker is: a place of others where curves and scores of trainings are kept."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """One training, as a tracker calls it.

    Attributes:
        project: the recipe's name.
        group: the run, of which it is one of several.
        run: by which the run is known, whatever its folder is called.
        name: of the entry, with its seed.
        settings: of the method and its training: texts, numbers, truth values and None.
        folder: of the entry.
    """

    project: str
    group: str
    run: str
    name: str
    settings: Mapping[str, Any]
    folder: Path

    @property
    def id(self) -> str:
        """By which a training that goes on after an interruption is found again."""
        return hashlib.sha256(f"{self.run} {self.name}".encode()).hexdigest()[:16]


class Tracking(Protocol):
    """A training that is tracked, until it is closed."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Keep losses and rates behind an optimizer step."""

    def close(self, scores: Mapping[str, float]) -> None:
        """Keep the scores of what was trained, and let go; there are none of what did not come to its end."""


@dataclass(frozen=True, kw_only=True)
class Tracker:
    """A place where trainings are tracked.

    Attributes:
        name: as users write it.
        package: that has to be installed for it.
        begin: opens it for a training, or goes on with one that it knows.
    """

    name: str
    package: str
    begin: Callable[[Tracked], Tracking]
