"""What is said of the data before anything is trained: scores that can't be had, and what their reader should know."""

from collections.abc import Mapping, Sequence

from workbench.data.pairs import Pairs
from workbench.data.prepared import PreparedData
from workbench.data.render import SPELLED, UNKNOWN
from workbench.errors import UserError
from workbench.evaluation import Metric, Prediction
from workbench.recipe import Recipe
from workbench.results import SplitContents

# From these shares on a word is said: of one label among all, and of one written answer.
MOSTLY, OFTEN = 0.9, 0.2


def require_metrics(recipe: Recipe, metrics: Sequence[Metric], pairs: Mapping[str, Pairs]) -> list[str]:
    """See that what is evaluated can be scored.

    Returns:
        The metrics of which nothing that is evaluated has a score.

    Raises:
        UserError: nothing has a score by the primary metric, or there are more classes than a metric can have.
    """
    asked = [
        Prediction.of_reference(example, split) for split in recipe.evaluated_splits for example, _ in pairs[split]
    ]
    scored = {metric.name: [one for one in asked if metric.applies(one)] for metric in metrics}
    for metric in metrics:
        classes = {choice for one in scored[metric.name] for choice in one.choices}
        if metric.most_classes is not None and len(classes) > metric.most_classes:
            raise UserError(
                f"metrics: {metric.name} is of at most {metric.most_classes} classes, and there are {len(classes)} "
                "different choices: take accuracy, auc, hit_10 or ndcg_10"
            )
    missing = [name for name, found in scored.items() if not found]
    if recipe.primary_metric in missing:
        chosen = all(one.choices for one in asked)
        how = "chosen from choices" if chosen else "written"
        others = [name for name in scored if name not in missing]
        others = others or (["accuracy", "macro_f1"] if chosen else ["bleu", "chrf", "rouge_l"])
        raise UserError(
            f"primary_metric {recipe.primary_metric!r} can't be had of answers that are {how}: "
            f"take one of {', '.join(others)}"
        )
    return missing


def remarks_on(recipe: Recipe, data: PreparedData) -> dict[str, list[str]]:
    """Split -> what the reader of its scores should know, in sentences."""
    found: dict[str, list[str]] = {}
    for split, pairs in data.pairs.items():
        noted, said = data.remarks[split], answers_remarks(data.contents[split], data.contents["train"])
        if split in recipe.evaluated_splits:
            said += _cut_off(pairs, recipe.max_new_tokens)
        if count := noted.get(SPELLED):
            said.append(
                f"{count} of {len(pairs)} examples spell a control token, such as the end of a turn: it stays plain "
                "text here; see that what serves the model reads texts so, too, or take allow_control_tokens=True"
            )
        if count := noted.get(UNKNOWN):
            share = count / max(1, int(pairs.lengths.sum()))
            said.append(f"{share:.1%} of the tokens stand for what the tokenizer does not know ({count} in all)")
        found[split] = said
    return found


def answers_remarks(contents: SplitContents, trained: SplitContents) -> list[str]:
    """What should be known of the answers of a split: hardly more than one, blank ones, labels that are not learned.

    Args:
        trained: the same of the training split.
    """
    said = []
    for task, counts in contents.labels.items():
        label, most = next(iter(counts.items()), ("", 0))
        if most > MOSTLY * sum(counts.values()):
            said.append(
                f"{most / sum(counts.values()):.0%} of the answers {_of(task)}are {label!r}: whoever always says so is "
                "right as often"
            )
        if new := [label for label in counts if task in trained.labels and label not in trained.labels[task]]:
            said.append(f"no training example {_of(task)}has the label {', '.join(map(repr, new))}")
    if contents.blank:
        said.append(f"{contents.blank} of {contents.written} answers have no letter and no digit")
    if contents.commonest_count > max(2, OFTEN * contents.written):
        said.append(f"{contents.commonest_count} of {contents.written} answers are the same: {contents.commonest!r}")
    return said


def _of(task: str) -> str:
    return f"of {task!r} " if task else ""


def _cut_off(pairs: Pairs, most: int) -> list[str]:
    lengths = [len(rendered.completion_ids) for example, rendered in pairs if not example.choices]
    longer = sum(length > most for length in lengths)
    if not longer:
        return []
    return [
        f"{longer} of {len(lengths)} references ({longer / len(lengths):.0%}) are longer than max_new_tokens={most} "
        f"(the longest has {max(lengths)}): answers as long as these are cut off"
    ]
