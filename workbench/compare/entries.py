"""The entries of a comparison, each with all its seeds, and what its costs are worth."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from workbench.compare.language import say
from workbench.results import Results, RunRecord, Score

# Cores' worth of time of other programs, and so many times the time of the fastest reference product of a run: above
# either, times are not compared.
DISTURBED, SLOWED = 0.25, 1.3
WHILE_TRAINED = "other processes took {others:.1f} of {cores} cores while it was trained"
WHILE_SCORED = "other processes took {others:.1f} of {cores} cores while it was scored"


def entries(results: Results) -> list[RunRecord]:
    """One record for each entry, in the order of the table: of several seeds their scores and their mean costs.

    Times are means of the seeds that nothing disturbed, if there are any.
    """
    scores = {one.method: one.metrics for one in results.over_seeds}
    found = []
    for name in dict.fromkeys(run.method for run in results.runs):
        runs = [run for run in results.runs if run.method == name]
        done = [run for run in runs if run.done]
        calm = [run for run in done if not disturbance(results, run)]
        found.append(_mean(done, calm or done, scores.get(name)) if done else runs[0])
    return found


def scores_of(results: Results) -> dict[str, Mapping[str, Score]]:
    """Of each entry that was carried to its end, with all its seeds: label -> score."""
    return {run.method: run.metrics for run in entries(results) if run.done}


def disturbance(results: Results, run: RunRecord) -> str:
    """Why the times of a record are not to be compared with others; empty where nothing speaks against it."""
    cores, threads = results.environment.get("cores") or 0, results.environment.get("threads") or 0
    threads *= results.environment.get("processes", 1)
    for stage, usage in ((WHILE_TRAINED, run.training_usage), (WHILE_SCORED, run.evaluation_usage)):
        if usage is not None and usage.others >= DISTURBED and usage.others + threads > cores:
            return say(stage, others=usage.others, cores=cores)
    products = [seconds for one in results.runs for seconds in one.product_seconds]
    if run.product_seconds and max(run.product_seconds) > SLOWED * min(products):
        times = max(run.product_seconds) / min(products)
        return say("the machine was {times:.1f} times slower before or after it than at its best", times=times)
    return ""


def disturbed_text(results: Results) -> str:
    """Of which entries no seed has times that can be compared, in a sentence; empty where there are none."""
    said = [
        f"{run.method} ({reason})" for run in entries(results) if run.done and (reason := disturbance(results, run))
    ]
    return say("Times marked with * are not to be compared: {said}.", said="; ".join(said)) if said else ""


def _mean(done: Sequence[RunRecord], calm: Sequence[RunRecord], scores: Mapping[str, Score] | None) -> RunRecord:
    """The record of an entry with all its seeds, of which the calm ones tell its times."""
    first = replace(calm[0], metrics=scores if scores is not None else done[0].metrics)
    if len(done) == 1:
        return first
    speeds = [run.train_tokens_per_second for run in calm if run.train_tokens_per_second is not None]
    texts = [run.seconds_per_1000_texts for run in calm if run.seconds_per_1000_texts is not None]
    return replace(
        first,
        train_seconds=fmean(run.train_seconds for run in calm),
        evaluation_seconds=fmean(run.evaluation_seconds for run in calm),
        export_seconds=fmean(run.export_seconds for run in calm),
        train_tokens_per_second=fmean(speeds) if speeds else None,
        seconds_per_1000_texts=fmean(texts) if texts else None,
        peak_memory_bytes=max(run.peak_memory_bytes for run in done),
        resumed=any(run.resumed for run in done),
    )
