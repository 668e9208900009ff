"""Everything that a run found."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from workbench.results.comparison import Comparison, SeedsRecord
from workbench.results.conditions import Budget, CheckpointInfo, DataInfo, MetricInfo, Seconds
from workbench.results.records import RunRecord, Score

# Of the file's form. 1 was version 0.1: it has no `schema`, and labels of groups are without the group's name.
SCHEMA = 2


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that a run found.

    Attributes:
        schema: of the file's form.
        recipe, recipe_sha256: the recipe's name and its file's checksum; None where it is no file.
        headline: the recipe's primary metric.
        evaluated_splits: in the recipe's order.
        metrics: by name.
        environment: machine and versions.
        over_seeds: each entry with all its seeds, where a run has several.
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
    def entries(self) -> list[RunRecord]:
        """One record for each entry, in the order of the table: of several seeds their scores and their mean costs."""
        scores = {one.method: one.metrics for one in self.over_seeds}
        found = []
        for name in dict.fromkeys(run.method for run in self.runs):
            runs = [run for run in self.runs if run.method == name]
            done = [run for run in runs if run.done]
            found.append(_mean(done, scores.get(name)) if done else runs[0])
        return found

    @property
    def scores(self) -> dict[str, Mapping[str, Score]]:
        """Of each entry that was carried to its end, with all its seeds: label -> score."""
        return {run.method: run.metrics for run in self.entries if run.done}

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


def _mean(done: Sequence[RunRecord], scores: Mapping[str, Score] | None) -> RunRecord:
    """The record of an entry with all its seeds."""
    first = done[0]
    if len(done) == 1:
        return first if scores is None else replace(first, metrics=scores)
    speeds = [run.train_tokens_per_second for run in done if run.train_tokens_per_second is not None]
    texts = [run.seconds_per_1000_texts for run in done if run.seconds_per_1000_texts is not None]
    return replace(
        first,
        metrics=scores or first.metrics,
        train_seconds=fmean(run.train_seconds for run in done),
        evaluation_seconds=fmean(run.evaluation_seconds for run in done),
        export_seconds=fmean(run.export_seconds for run in done),
        train_tokens_per_second=fmean(speeds) if speeds else None,
        seconds_per_1000_texts=fmean(texts) if texts else None,
        peak_memory_bytes=max(run.peak_memory_bytes for run in done),
        resumed=any(run.resumed for run in done),
    )
