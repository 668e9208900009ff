"""What a run showed, in words."""

from collections.abc import Sequence

from workbench.compare.entries import scores_of
from workbench.compare.language import joined, listed, say
from workbench.compare.paired import LUCK
from workbench.compare.power import least_p
from workbench.compare.tables import aligned, difference_text, score_text
from workbench.results import Comparison, Results


def best_set(results: Results) -> list[str]:
    """The entries among which the best is, in 95 of 100 such runs, by the compared score; the highest first.

    These are the ones that no other is better than by more than luck explains, at a level of 5 % for all pairs
    together: that the truly best entry is called worse than another happens in fewer runs than that.
    """
    scores, label = scores_of(results), results.compared_label
    sign = 1 if results.metrics[results.headline].higher_is_better else -1
    behind = {
        pair.a if sign * pair.difference > 0 else pair.b for pair in results.comparisons if pair.p_adjusted <= LUCK
    }
    names = [name for name in scores if label in scores[name] and name not in behind]
    return sorted(names, key=lambda name: -sign * scores[name][label].value)


def conclude(results: Results) -> str:
    """What the run showed, in a few sentences."""
    label, scores = results.compared_label, scores_of(results)
    scored = [name for name in scores if label in scores[name]]
    if not scored:
        return say("No method was carried to its end.")
    among = best_set(results)
    best, metric = among[0], results.metrics[results.headline].title
    told = {"metric": metric, "split": results.compared_split, "best": best, "score": score_text(scores[best][label])}
    said = [say("Best by {metric} on {split}: {best}, {score}.", **told)]
    few = [pair.items for pair in results.comparisons if pair.items is not None and least_p(pair.items) > LUCK]
    if len(scored) == 1 or not results.comparisons:
        said.append(say("Nothing to compare it with."))
    elif few:
        said.append(
            say(
                "{items} independent test examples are too few to tell methods apart: even if one were better on all "
                "of them, that could be luck.",
                items=min(few),
            )
        )
    else:
        said += _compared(results, among, [name for name in scored if name not in among])
    return joined(said)


def _compared(results: Results, among: Sequence[str], behind: Sequence[str]) -> list[str]:
    """Which are the best, which are not, and what would tell more."""
    if len(among) == 1:
        every = say("Every other method is behind it by more than luck explains (95 % confidence).")
        return [every, _seeds(results)]
    told = {"among": listed(among)}
    if behind:
        best = say("With 95 % confidence the best is among {among}: their differences may be luck.", **told)
        said = [best, say("Behind by more than luck explains: {behind}.", behind=listed(behind))]
    else:
        said = [
            say("With 95 % confidence the best is among {among}, which are all: their differences may be luck.", **told)
        ]
    return [*said, _worth_tuning(results, among), _more(results, among), _seeds(results)]


def _worth_tuning(results: Results, among: Sequence[str]) -> str:
    """That training has not been shown to help, where what needs none is among the best."""
    trained = {run.method for run in results.runs if not run.fixed and (run.reranks or not run.baseline)}
    free = [name for name in among if name not in trained]
    if not free or not trained:
        return ""
    return say("No training was shown to be worth its cost: {free} may be as good.", free=listed(free))


def would_tell(pair: Comparison) -> str:
    """How many examples and seeds would tell two entries apart whose difference may be luck; empty where it is none."""
    if pair.p_adjusted <= LUCK or not pair.difference or (pair.detectable is None and pair.items_to_tell is None):
        return ""
    if pair.items_to_tell is None:
        return say("more than can be had")
    told = {"examples": f"{pair.items_to_tell:,}", "here": pair.items}
    if pair.seeds_to_tell is None:
        return say("{examples} test examples ({here} here)", **told)
    seeds = {"seeds": pair.seeds_to_tell, "seeds_here": pair.seeds}
    return say("{examples} test examples ({here} here) with {seeds} seeds ({seeds_here} here)", **told, **seeds)


def pairs_table(results: Results) -> str:
    """Every pair in Markdown: difference, p-values, and what would tell it; empty where there are none."""
    if not results.comparisons:
        return ""
    difference_in = say("difference in {label}", label=results.compared_label)
    lines = [[say("methods"), difference_in, "p", say("adjusted"), say("would tell")]]
    for pair in results.comparisons:
        difference, low, high = (difference_text(results, one) for one in (pair.difference, pair.low, pair.high))
        p_values = f"{pair.p:.3f}", f"{pair.p_adjusted:.3f}"
        lines.append(
            [say("{b} against {a}", b=pair.b, a=pair.a), f"{difference} [{low}, {high}]", *p_values, would_tell(pair)]
        )
    return aligned(lines)


def _more(results: Results, among: Sequence[str]) -> str:
    """What would tell the best two apart."""
    pair = next((pair for pair in results.comparisons if {pair.a, pair.b} == set(among[:2])), None)
    told = would_tell(pair) if pair else ""
    if not pair or not told:
        return ""
    two = {"one": among[0], "other": among[1]}
    if pair.items_to_tell is None:
        return say("So small a difference as that between {one} and {other} no number of examples would tell.", **two)
    two["told"] = told
    return say("If the difference between {one} and {other} is as large as it looks, {told} would tell it.", **two)


def _seeds(results: Results) -> str:
    """Whether what is said holds for other seeds."""
    if any(pair.seeds > 1 for pair in results.comparisons):
        return say("This holds for other seeds, too: {seeds} were carried through.", seeds=results.seeds)
    if all(run.fixed for run in results.runs):
        return ""
    return say(
        "This is said of the models that were trained, with one seed each: another seed may change it (--seeds 3)."
    )
