"""Everything that a run found."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.results.comparison import Comparison, SeedsRecord
from workbench.results.conditions import Budget, CheckpointInfo, DataInfo, MetricInfo, Price, Seconds
from workbench.results.curve import CurveRecord
from workbench.results.records import RunRecord
from workbench.results.tuning import TuningRecord

# Of the file's form. 1 was version 0.1: it has no `schema`, and labels of groups are without the group's name.
SCHEMA = 2


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that a run found.

    Attributes:
        schema: of the file's form.
        recipe, recipe_sha256: the recipe's name and its file's checksum; None where it is no file.
        checkpoint: the base.
        headline: the recipe's primary metric.
        evaluated_splits: in the recipe's order.
        metrics: by name.
        environment: machine and versions; the command, day and commit of the recipe.
        over_seeds: each entry with all its seeds, where a run has several.
        data: what was trained and scored on.
        runs: of each entry with each seed.
        comparisons: every two entries beside each other, by the headline.
        tuning: how the settings of each entry were chosen, where that was asked for.
        curves: how the scores of entries grow with the training data, where that was asked for.
        price: of an hour of the machine, where it was stated.
        seconds: where the time went.
        budget: what the run was expected to take, and what was cut to end in time.
    """

    schema: int = SCHEMA
    recipe: str
    recipe_sha256: str | None
    checkpoint: CheckpointInfo
    headline: str
    evaluated_splits: Sequence[str]
    metrics: Mapping[str, MetricInfo]
    environment: Mapping[str, Any]
    data: DataInfo
    runs: Sequence[RunRecord] = ()
    comparisons: Sequence[Comparison] = ()
    over_seeds: Sequence[SeedsRecord] = ()
    tuning: Sequence[TuningRecord] = ()
    curves: Sequence[CurveRecord] = ()
    price: Price | None = None
    seconds: Seconds | None = None
    budget: Budget | None = None

    @property
    def several_seeds(self) -> bool:
        """Whether any entry stands there with more than one."""
        return len({run.seed for run in self.runs}) > 1

    @property
    def seeds(self) -> int:
        """With how many of them the entry that has most was carried to its end."""
        counts = Counter(run.method for run in self.runs if run.done)
        return max(counts.values(), default=0)

    @property
    def compared_split(self) -> str:
        """The split by whose primary metric entries are compared: the first that has a score."""
        scored = {label for run in self.runs for label in run.metrics}
        splits = self.evaluated_splits
        return next((split for split in splits if f"{self.headline}[{split}]" in scored), splits[0])

    @property
    def compared_label(self) -> str:
        """The score by which entries are compared, such as `bleu[test]`."""
        return f"{self.headline}[{self.compared_split}]"
