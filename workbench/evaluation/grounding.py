"""Answers from a source: the model chooses what to read, and answers with that in its prompt.

A model that learned which passage answers a question knows the questions that it was trained on, in whatever words; a
search knows the words of every passage, of those as well that nobody ever asked about. What both find is read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from workbench.data import Example, with_context
from workbench.evaluation.calibration import Calibration, choose
from workbench.evaluation.prediction import Prediction
from workbench.generation.language_model import LanguageModel
from workbench.recipe import Grounding


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
    found = choose(model, asked, known, "", title, prune=True)
    passages = {number: _read(grounding, examples[number], one) for number, one in zip(written, found, strict=True)}
    return [
        replace(example, prompt=with_context(example.prompt, passages[number])) if number in passages else example
        for number, example in enumerate(examples)
    ]


def _read(grounding: Grounding, example: Example, found: Prediction) -> str:
    """The passage of the model's choice, and below it that of the search's best among the others."""
    order = () if grounding.search is None else grounding.search(example.prompt)
    others = [name for name in order if name != found.prediction and name in grounding.passages]
    read = [found.prediction, *others][: grounding.passages_read]
    return "\n".join(grounding.passages[name] for name in read)
