"""Answers from a source: the model chooses what to read, and answers with that in its prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from workbench.data import Example, with_context
from workbench.evaluation.calibration import Calibration, choose
from workbench.evaluation.prediction import Prediction
from workbench.generation.language_model import LanguageModel
from workbench.recipe import Grounding

# Of reciprocal rank fusion (Cormack et al. 2009, doi:10.1145/1571941.1572114): 1 / (60 + rank), so that the first ranks
# don't decide alone.
RANK_OFFSET = 60


def grounded(
    model: LanguageModel,
    grounding: Grounding,
    calibrations: Mapping[str, Calibration],
    examples: Sequence[Example],
    title: str = "",
) -> list[Example]:
    """The examples with what the model chose to read in the system message of those that it is to write.

    Args:
        calibrations: by task, how likelihoods of choices become probabilities; a task that isn't there is taken as it
            is.
        title: in front of a progress bar; none for an empty one.
    """
    written = [number for number, example in enumerate(examples) if not example.choices]
    asked = [replace(grounding.ask(examples[number].prompt), id=str(number)) for number in written]
    if not asked:
        return list(examples)
    known = {example.task: calibrations.get(example.task, Calibration()) for example in asked}
    # Beside another order the whole of the model's counts.
    kept = () if grounding.search is None else {choice for example in asked for choice in example.choices}
    found = choose(model, asked, known, "", title, prune=True, kept=kept)
    passages = {
        number: grounding.passages[_chosen(grounding, examples[number], one)]
        for number, one in zip(written, found, strict=True)
    }
    return [
        replace(example, prompt=with_context(example.prompt, passages[number])) if number in passages else example
        for number, example in enumerate(examples)
    ]


def _chosen(grounding: Grounding, example: Example, found: Prediction) -> str:
    if grounding.search is None:
        return found.prediction
    order = sorted(found.choices, key=lambda choice: (choice != found.prediction, -found.choices[choice]))
    return fused(order, grounding.search(example.prompt))


def fused(these: Sequence[str], those: Sequence[str]) -> str:
    """The best of two orders by reciprocal rank fusion. What stands twice in an order counts where it stands first.

    Of equals it is the one that stands further in front in `these`.
    """
    scores = dict.fromkeys(these, 0.0)
    for order in (these, those):
        for place, choice in enumerate(dict.fromkeys(order), 1):
            if choice in scores:
                scores[choice] += 1 / (RANK_OFFSET + place)
    return max(these, key=lambda choice: scores[choice])
