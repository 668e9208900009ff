"""The trials of one entry, proposed by Optuna (Akiba et al. 2019, arXiv:1907.10902) and kept in its storage.

Trials go in rounds. What a round tries, and what is stopped early in it, hangs on the rounds before it alone, so that
the same trials come out whether they are carried out one after another, beside each other, or after an interruption.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from workbench import files
from workbench.errors import UserError
from workbench.methods.space import Range
from workbench.results import TuningRecord, TuningTrial

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

# Trials of a round.
TOGETHER = 3
# Share of the trials that are spread evenly before the sampler goes by what it saw.
SPREAD = 1 / 3
# Trials carried to their end before any is stopped early, and the share of its steps that each makes in any case.
BEFORE_STOPPING, STEPS_IN_ANY_CASE = 2, 1 / 3
# Of a range on its logarithmic scale, what is its edge; and by how much it is widened there.
EDGE, WIDER = 0.1, 4.0
# What stands beside each trial in the storage.
PLACE, SECONDS, LOWEST, ERROR = "place", "seconds", "lowest", "error"
# Beside a study that is over.
OVER = "over"
STATUS: Mapping[str, Literal["done", "stopped", "failed"]] = {"COMPLETE": "done", "PRUNED": "stopped", "FAIL": "failed"}


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """Settings that are to be tried.

    Attributes:
        place: among all trials of the study, from 0.
        settings: name -> number.
        earlier: the curves of trials that were carried to their end in earlier rounds, see `is_behind`.
    """

    place: int
    settings: Mapping[str, float]
    earlier: Sequence[Mapping[int, float]] = ()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a trial.

    Attributes:
        status: "done"; "stopped" before its end; "failed".
        loss: the lowest of its validation losses; None if there was none.
        curve: optimizer step -> validation loss.
        seconds: that it took.
        error: why it failed.
    """

    status: Literal["done", "stopped", "failed"]
    seconds: float
    loss: float | None = None
    curve: Mapping[int, float] | None = None
    error: str | None = None


def is_behind(curve: Mapping[int, float], earlier: Sequence[Mapping[int, float]], steps: int) -> bool:
    """Whether a trial is to be stopped: what Optuna's median pruner says behind the last step of `curve`.

    Args:
        curve: optimizer step -> validation loss, so far.
        earlier: the same of trials that were carried to their end.
        steps: that a trial makes.
    """
    import optuna

    pruner = optuna.pruners.MedianPruner(BEFORE_STOPPING, n_warmup_steps=math.ceil(STEPS_IN_ANY_CASE * steps))
    with _quiet():
        study = optuna.create_study(pruner=pruner)
        study.add_trials(
            [optuna.create_trial(value=min(one.values()), intermediate_values=dict(one)) for one in earlier]
        )
        trial = study.ask()
        for step, loss in curve.items():
            trial.report(loss, step)
        return trial.should_prune()


class Study:
    """The trials of one entry, in a file from which they go on.

    Args:
        file: of SQLite, in which studies of several entries lie; Optuna's own tools open it.
        entry: the name of the study.
        space: setting -> its range.
        usual: setting -> what it is without tuning, which is tried first.
        budget: trials in all.
        seed: of what is proposed.

    Raises:
        UserError: the file is damaged.
        OSError: the disk is full.
    """

    def __init__(
        self, file: Path, entry: str, space: Mapping[str, Range], usual: Mapping[str, float], budget: int, seed: int
    ) -> None:
        import optuna

        self.entry, self.usual, self.budget, self.seed = entry, dict(usual), budget, seed
        self.space = {name: one.around(usual[name]) for name, one in space.items()}
        self.file = file
        with _stored(file):
            storage = optuna.storages.RDBStorage(f"sqlite:///{file}")
            self.study = optuna.create_study(study_name=entry, storage=storage, load_if_exists=True)

    @property
    def is_over(self) -> bool:
        """Whether it was closed: what it chose stands, even if its time was over before all trials were made."""
        return bool(self.study.user_attrs.get(OVER))

    def close(self) -> None:
        """Make no further trial, now or later: what follows is trained with what was chosen."""
        with _stored(self.file):
            self.study.set_user_attr(OVER, True)

    def proposals(self) -> list[Proposal]:
        """What is to be tried next, all of it at once; nothing when all trials were made, or it was closed."""
        if self.is_over:
            return []
        finished = self._finished()
        began = len(finished) // TOGETHER * TOGETHER
        made = {trial.user_attrs[PLACE] for trial in finished}
        return [one for one in self._round(finished[:began]) if one.place not in made]

    def tell(self, proposal: Proposal, outcome: Outcome) -> None:
        """What came of a proposal."""
        import optuna

        states = {status: optuna.trial.TrialState[name] for name, status in STATUS.items()}
        with _stored(self.file):
            self.study.add_trial(
                optuna.create_trial(
                    state=states[outcome.status],
                    value=None if outcome.status == "failed" else outcome.loss,
                    params=dict(proposal.settings),
                    distributions=self._distributions(self._space_at(proposal.place)),
                    intermediate_values=dict(outcome.curve or {}),
                    user_attrs={
                        PLACE: proposal.place,
                        SECONDS: outcome.seconds,
                        LOWEST: outcome.loss,
                        ERROR: outcome.error,
                    },
                )
            )

    def record(self) -> TuningRecord:
        """All trials that were made, and what they say."""
        finished = self._finished()
        trials = [
            TuningTrial(
                settings=trial.params,
                status=STATUS[trial.state.name],
                validation_loss=trial.user_attrs[LOWEST],
                curve=[{"step": step, "validation_loss": loss} for step, loss in trial.intermediate_values.items()],
                seconds=trial.user_attrs[SECONDS],
                error=trial.user_attrs[ERROR],
            )
            for trial in finished
        ]
        space = self._space_at(max(0, len(finished) - 1))
        record = TuningRecord(
            entry=self.entry,
            budget=self.budget,
            seed=self.seed,
            settings={},
            ranges={name: (one.low, one.high) for name, one in self.space.items()},
            widened={name: (one.low, one.high) for name, one in space.items() if one != self.space[name]},
            trials=trials,
            seconds=sum(trial.seconds for trial in trials),
        )
        chosen = record.chosen
        if chosen is None:
            return record
        return replace(record, settings=dict(chosen.settings), at_edge=sorted(edges(chosen.settings, space)))

    def _finished(self) -> "list[FrozenTrial]":
        """Trials that were made, in the order in which they were proposed."""
        with _stored(self.file):
            return sorted(self.study.trials, key=lambda trial: int(trial.user_attrs[PLACE]))

    def _round(self, earlier: "Sequence[FrozenTrial]") -> list[Proposal]:
        """What the round behind `earlier` ones tries."""
        import optuna

        places = range(len(earlier), min(len(earlier) + TOGETHER, self.budget))
        space = self._space(earlier)
        given = self._given(earlier, space)
        curves = [dict(one.intermediate_values) for one in earlier if one.state == optuna.trial.TrialState.COMPLETE]
        found = []
        with _quiet():
            study = optuna.create_study()
            study.add_trials(earlier)
            for place in places:
                study.sampler = self._sampler(place)
                if place in given:
                    study.enqueue_trial(dict(given[place]))
                trial = study.ask(fixed_distributions=self._distributions(space))
                settings = {name: self._nearest(name, trial.params[name], space[name]) for name in space}
                found.append(Proposal(place=place, settings=settings, earlier=curves))
        return found

    def _sampler(self, place: int) -> "BaseSampler":
        """Of its own for each trial: what it draws hangs on no other process's draws."""
        import optuna

        return optuna.samplers.TPESampler(
            n_startup_trials=self._spread, multivariate=False, seed=self.seed * 10_007 + place
        )

    @property
    def _spread(self) -> int:
        """Trials that are spread evenly, whole rounds of them."""
        return math.ceil(self.budget * SPREAD / TOGETHER) * TOGETHER

    def _given(self, earlier: "Sequence[FrozenTrial]", space: Mapping[str, Range]) -> dict[int, dict[str, float]]:
        """Place -> settings that are not left to the sampler: what is usual, what is spread evenly, what is new."""
        from scipy.stats import qmc

        began = len(earlier)
        if began < self._spread:
            points = qmc.Halton(len(space), rng=self.seed).random(self._spread)
            spread = {
                place: {
                    name: self._nearest(name, one.low * (one.high / one.low) ** share, one)
                    for (name, one), share in zip(space.items(), point, strict=True)
                }
                for place, point in enumerate(points)
            }
            return {**spread, 0: self.usual}
        best = _best(earlier)
        if began != self._widened_at or best is None:
            return {}
        # A step beyond each edge that the best lies at, and all else as it is there.
        beyond = {
            name: best.params[name] * (WIDER**0.5 if above else WIDER**-0.5)
            for name, above in edges(best.params, self.space).items()
            if space[name] != self.space[name]
        }
        new = {name: self._nearest(name, value, space[name]) for name, value in {**best.params, **beyond}.items()}
        return {began: new} if beyond else {}

    @property
    def _widened_at(self) -> int:
        """The first trial behind half of them that begins a round: there ranges may be widened."""
        return math.ceil(self.budget / 2 / TOGETHER) * TOGETHER

    def _space(self, earlier: "Sequence[FrozenTrial]") -> dict[str, Range]:
        """The ranges behind so many trials, widened where the best lay at an edge when half of them were made."""
        best = _best(earlier[: self._widened_at])
        if len(earlier) < self._widened_at or best is None:
            return self.space
        found = dict(self.space)
        for name, above in edges(best.params, self.space).items():
            one = found[name]
            low, high = (one.low, one.high * WIDER) if above else (one.low / WIDER, one.high)
            wider = replace(one, low=max(low, 1.0) if one.whole else low, high=high)
            found[name] = wider.around(self.usual[name])
        return found

    def _space_at(self, place: int) -> dict[str, Range]:
        """That of the round of a trial."""
        return self._space(self._finished()[: place // TOGETHER * TOGETHER])

    def _distributions(self, space: Mapping[str, Range]) -> "dict[str, BaseDistribution]":
        from optuna.distributions import FloatDistribution, IntDistribution

        return {
            name: IntDistribution(int(one.low), int(one.high), log=True)
            if one.whole
            else FloatDistribution(one.low, one.high, log=True)
            for name, one in space.items()
        }

    def _nearest(self, name: str, value: float, one: Range) -> float:
        """The number of a range nearest to `value`."""
        inside = min(max(value, one.low), one.high)
        if not one.whole:
            return min(max(float(f"{inside:.2g}"), one.low), one.high)
        usual = int(self.usual[name])
        doublings = round(math.log2(inside / usual))
        return usual * 2**doublings if doublings >= 0 else usual // 2**-doublings


def edges(settings: Mapping[str, float], space: Mapping[str, Range]) -> dict[str, bool]:
    """Settings that lie at the edge of their range: name -> whether at the upper one."""
    found = {}
    for name, one in space.items():
        share = math.log(settings[name] / one.low) / math.log(one.high / one.low) if one.high > one.low else 0.5
        near = 1e-9 if one.whole else EDGE  # a number of few is at the edge where there is none beyond it
        if share <= near or share >= 1 - near:
            found[name] = share > 1 / 2
    return found


def _best(trials: "Sequence[FrozenTrial]") -> "FrozenTrial | None":
    done = [trial for trial in trials if trial.state.name == "COMPLETE"]
    return min(done, key=lambda trial: trial.value or 0.0, default=None)


@contextmanager
def _quiet() -> Iterator[Any]:
    """Optuna tells of every trial, which the run tells in its own way."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


@contextmanager
def _stored(file: Path) -> Iterator[None]:
    """While the block runs, what the database says is said as this project says it.

    Raises:
        UserError: the file is damaged.
        OSError: the disk is full.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import DatabaseError

    try:
        with _quiet():
            yield
    except (StorageInternalError, DatabaseError) as error:
        files.raise_if_full(error, file.parent)
        raise UserError(f"{file} can't be read or written: remove it, and its trials are made anew") from error
