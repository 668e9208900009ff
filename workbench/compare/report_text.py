"""What a report says of exports, intervals, the machine and the trials of tuning."""

from collections.abc import Sequence

from workbench.compare.entries import disturbance
from workbench.compare.language import joined, say
from workbench.compare.tables import name_of
from workbench.results import Results, RunRecord, TuningRecord, Usage


def export_text(run: RunRecord) -> str:
    """What can be shipped of a run, in a few sentences."""
    warning = say("Warning: {warning}.", warning=run.warning) if run.warning else ""
    return joined([warning, *_shipped(run)])


def _shipped(run: RunRecord) -> list[str]:
    export = run.export
    if not export.merged:
        return [str(export.reason)]
    said = [
        say(
            "merged/ is a plain checkpoint: reloaded in a fresh process, its logits differ from the trained model's by "
            "at most {difference:.2g} (largest logit {largest:.3g}; the base differs by {base:.3g}), and its {answers} "
            "are the same on {share:.0%} of {prompts} held-out prompts.",
            difference=export.max_abs_logit_difference,
            largest=export.max_abs_logit,
            base=export.base_logit_difference,
            answers=say("classes") if run.head else say("greedy answers"),
            share=export.greedy_agreement,
            prompts=export.prompts,
        )
    ]
    if export.speed:
        said.append(say("It answers {speed:.1f} times as fast as the adapter.", speed=export.speed))
    if export.base:
        said.append(
            say(
                "It was {base}: validation loss {trained:.3f} as trained, {shipped:.3f} as shipped; the scores are of "
                "what is shipped.",
                base=export.base,
                trained=run.validation_loss_as_trained,
                shipped=run.validation_loss_as_shipped,
            )
        )
    return said


def interval_text(results: Results) -> str:
    """What the intervals of scores cover, in a sentence or two."""
    if results.over_seeds and results.seeds > 1:
        return say(
            "Means of {seeds} seeds with 95 % intervals, which cover the choice of test examples (bootstrap) and of "
            "seeds; costs are means, too.",
            seeds=results.seeds,
        )
    items = say("Scores with 95 % bootstrap intervals over the test examples.")
    if all(run.fixed for run in results.runs):
        return items
    one = say("Seeds are not in them: each method was trained with one (--seeds 3 puts them in).")
    return joined([items, one])


def usage_table(results: Results) -> list[list[str]]:
    """What every trial took of the machine and others meanwhile: rows of cells, of those that noted it."""
    cores = results.environment.get("cores")
    found = []
    for run in results.runs:
        usage = [run.training_usage, run.evaluation_usage]
        if not any(usage):
            continue
        cells = [_usage(one, cores) if one else "-" for one in usage]
        joules = [one.joules for one in usage if one and one.joules is not None]
        energy = f"{sum(joules) / 3600:.2f} Wh" if joules else "-"
        product = " / ".join(f"{1000 * seconds:.1f}" for seconds in run.product_seconds) or "-"
        by = disturbance(results, run) or say("nothing")
        found.append([name_of(run, results.several_seeds), *cells, product, energy, by])
    return found


def _usage(one: Usage, cores: int | None) -> str:
    told = {"seconds": one.processor_seconds, "others": one.others, "cores": cores}
    return say("{seconds:.0f} s, {others:.1f} of {cores} cores", **told)


def tuning_rows(records: Sequence[TuningRecord]) -> list[list[str]]:
    """Every trial of every entry: entry, settings, validation loss, seconds, what came of it."""
    found = []
    for record in records:
        for trial in record.trials:
            settings = ", ".join(f"{name} {value:g}" for name, value in trial.settings.items())
            loss = "-" if trial.validation_loss is None else f"{trial.validation_loss:.4f}"
            said = _chosen(record) if trial == record.chosen else ""
            if trial.status == "stopped":
                said = say("stopped early")
            elif trial.status == "failed":
                said = say("failed: {reason}", reason=trial.error)
            found.append([record.entry, settings, loss, f"{trial.seconds:.0f}", said])
    return found


def _chosen(record: TuningRecord) -> str:
    said = [say("chosen")]
    for name in record.at_edge:
        low, high = record.tried[name]
        edge = {"name": name, "low": low, "high": high}
        said.append(say("at the edge of {name}, {low:g} to {high:g}: a better one may lie beyond", **edge))
    return "; ".join(said)
