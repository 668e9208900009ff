"""How long the rest of a run takes, and until when a training may go on so that the run ends in time."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from workbench.results import Forecast
from workbench.training import Limit

TUNING, TRAINING, EVALUATION, EXPORT, CURVE = "tuning", "training", "evaluation", "export", "curve"
# Seconds of a forecast that count as come true before anything is done, so that a short stage doesn't decide.
BELIEVED = 60.0
# By how much what was seen may correct a forecast.
SLOWEST, FASTEST = 4.0, 0.5

# So often a run notes how long it has gone on: an interruption loses no more.
NOTED_EVERY = 5.0

Key = tuple[str, int]


def seconds_noted(file: Path) -> float:
    """What `noting_seconds` left; 0 where there is nothing, or nothing that can be read."""
    with suppress(FileNotFoundError, ValueError):
        return float(file.read_text(encoding="utf-8"))
    return 0.0


@contextmanager
def noting_seconds(file: Path, began: float) -> Iterator[None]:
    """While the block runs, keep the seconds since `began` (by `time.perf_counter`) in a file, up to date."""
    over = threading.Event()

    def note() -> None:
        with file.open("wb", buffering=0) as opened:
            while True:
                # Always as long, in one place and one write: there is no half of it to be read.
                opened.seek(0)
                opened.write(f"{time.perf_counter() - began:020.3f}\n".encode())
                if over.wait(NOTED_EVERY):
                    return

    thread = threading.Thread(target=note, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class RunClock:
    """The time of a run: what was expected of every part, and what has gone by.

    Args:
        expected: (entry, seed) -> what it takes, in the order in which they are carried out.
        deadline: when the run has to end, by `time.perf_counter`; None for no limit.
        tuning, curve: (entry, seed) -> what choosing its settings takes, before all else, and parts of the training
            data, behind all else.
    """

    def __init__(
        self,
        expected: Mapping[Key, Forecast] | None = None,
        deadline: float | None = None,
        tuning: Mapping[Key, float] | None = None,
        curve: Mapping[Key, float] | None = None,
    ) -> None:
        self.deadline = deadline
        self._waiting = {(*key, TUNING): seconds for key, seconds in (tuning or {}).items()}
        self._waiting |= {
            (*key, stage): seconds
            for key, forecast in (expected or {}).items()
            for stage, seconds in (
                (TRAINING, forecast.training), (EVALUATION, forecast.evaluation), (EXPORT, forecast.export),
            )
        }  # fmt: skip
        self._waiting |= {(*key, CURVE): seconds for key, seconds in (curve or {}).items()}
        # What is under way, what is expected of it, and when it began.
        self._under_way: tuple[tuple[str, int, str], float, float] | None = None
        self._tuned_until: dict[tuple[str, int, str], float] = {}
        self._expected_so_far = self._taken_so_far = 0.0
        self._stopped_at: int | None = None

    @contextmanager
    def stage(self, entry: str, seed: int, stage: str, parts: int = 1) -> Iterator[None]:
        """While the block runs, a part of the run is under way; within another one it belongs to that.

        Args:
            parts: of a stage that is carried out in several, this one and those that are left.
        """
        if self._under_way is not None:
            yield
            return
        key, began = (entry, seed, stage), time.perf_counter()
        whole = self._waiting.pop(key, 0.0)
        expected = whole / parts
        if parts > 1:
            self._waiting[key] = whole - expected
        self._under_way = key, expected, began
        try:
            yield
        finally:
            self._under_way = None
            self._expected_so_far += expected
            self._taken_so_far += time.perf_counter() - began

    def drop(self, entry: str, seed: int) -> None:
        """What is left of an entry is not carried out: it is over, but for its curve."""
        self._waiting = {
            key: seconds for key, seconds in self._waiting.items() if key[:2] != (entry, seed) or key[2] == CURVE
        }

    @property
    def pace(self) -> float:
        """What has been carried out took so many times as long as expected."""
        return self._pace_with(0.0, 0.0)

    def _pace_with(self, expected: float, taken: float) -> float:
        """The same, with a part of which this was expected, and which takes this."""
        seen = (self._taken_so_far + taken + BELIEVED) / (self._expected_so_far + expected + BELIEVED)
        return min(SLOWEST, max(FASTEST, seen))

    def left(self, at_least: float = 0.0) -> float:
        """Seconds until the run ends, as far as can be told.

        Args:
            at_least: what is left of the part that is under way, by the pace of its own steps.
        """
        waiting = sum(self._waiting.values())
        if self._under_way is None:
            return self.pace * waiting
        _, expected, began = self._under_way
        taken = time.perf_counter() - began
        left = max(at_least, self.pace * expected - taken)
        whole = left + max(self.pace, self._pace_with(expected, taken + left)) * waiting
        if self.deadline is None:
            return whole
        return min(whole, max(0.0, self.deadline - time.perf_counter()))  # by then it is cut

    def limit(self) -> Limit:
        """What ends the training that is under way, so that the run ends in time; of trials, all those of an entry.

        The time that everything else leaves is shared by the trainings as their forecasts say, so that a machine that
        is slower than expected is slower for each of them.
        """
        if self.deadline is None or self._under_way is None:
            return Limit(most_steps=self._stopped_at)
        key, expected, began = self._under_way
        trainings = sum(seconds for key, seconds in self._waiting.items() if key[2] in (TUNING, TRAINING))
        others = sum(self._waiting.values()) - trainings
        left = self.deadline - began - max(1.0, self.pace) * others
        together = expected + (self._waiting.get(key, 0.0) if key[2] == TUNING else 0.0)
        share = together / (expected + trainings) if expected else 1.0
        # Trials that take longer take the time of other trials, and not of the trainings behind them.
        until = self._tuned_until.setdefault(key, began + left * share) if key[2] == TUNING else began + left * share
        return Limit(stop_at=until, most_steps=self._stopped_at)

    def stopped_at(self, step: int) -> None:
        """A training was stopped at this step: those to come must not make more."""
        self._stopped_at = step if self._stopped_at is None else min(step, self._stopped_at)
