"""What came of the trials by which settings of an entry were chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TuningTrial:
    """One training with settings that were tried.

    Attributes:
        settings: that were tried.
        status: "done"; "stopped" since it lay behind the median of earlier ones, or its time was over; "failed".
        validation_loss: the lowest; of what was stopped, until then.
        curve: `{"step", "validation_loss"}`, in order.
        seconds: wall-clock time.
        error: why it failed.
    """

    settings: Mapping[str, int | float]
    status: Literal["done", "stopped", "failed"]
    seconds: float
    validation_loss: float | None = None
    curve: Sequence[Mapping[str, float]] = ()
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class TuningRecord:
    """How the settings of an entry were chosen, by the validation split alone.

    Attributes:
        entry: its name.
        trials: in the order in which they were begun; the first is what the entry is without tuning.
        budget: how many there were to be, the same for every entry.
        seed: of all of them, and of no training that is compared.
        settings: that were chosen; empty where no trial was carried through, so that nothing was changed.
        ranges: setting -> lowest and highest that was looked among at first.
        widened: the same of ranges that were widened, since the best lay at their edge.
        at_edge: settings of which the chosen one lies at the edge of what was looked among in the end.
        seconds: wall-clock time of all trials.
    """

    entry: str
    budget: int
    seed: int
    settings: Mapping[str, int | float]
    ranges: Mapping[str, tuple[float, float]]
    trials: Sequence[TuningTrial] = ()
    widened: Mapping[str, tuple[float, float]] | None = None
    at_edge: Sequence[str] = ()
    seconds: float = 0.0

    @property
    def tried(self) -> Mapping[str, tuple[float, float]]:
        """Setting -> lowest and highest that was looked among in the end."""
        return {**self.ranges, **(self.widened or {})}

    @property
    def chosen(self) -> TuningTrial | None:
        """The trial whose settings were chosen."""
        done = [trial for trial in self.trials if trial.status == "done" and trial.validation_loss is not None]
        return min(done, key=lambda trial: trial.validation_loss or 0.0, default=None)
