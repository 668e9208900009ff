"""What a language model answers to every example, and how likely it finds the references."""

import math
from collections.abc import Mapping, Sequence

from workbench.data import Example
from workbench.evaluation.calibration import Calibration, choose
from workbench.evaluation.prediction import Prediction
from workbench.generation.language_model import LanguageModel
from workbench.generation.sampling import Sampling


def predict(
    model: LanguageModel,
    examples: Mapping[str, Sequence[Example]],
    sampling: Sampling,
    title: str,
    calibrations: Mapping[str, Calibration] | None = None,
    prune: bool = False,
) -> list[Prediction]:
    """Let `model` answer every example, and measure the likelihood of every reference.

    Args:
        examples: by split.
        sampling: how answers are written.
        title: in front of the progress bar; none for an empty one.
        calibrations: task -> how likelihoods of choices become probabilities; None lets the model write all answers.
        prune: read of very many choices only what the likeliest and the right one hang on, see `choose`.

    Returns:
        Predictions in the order of `examples`.
    """
    found: dict[tuple[str, str], Prediction] = {}
    if calibrations is not None:
        for split, some in examples.items():
            if with_choices := [example for example in some if example.choices]:
                for prediction in choose(model, with_choices, calibrations, split, f"{title}, {split}", prune):
                    found[split, prediction.id] = prediction
    written = [(split, e) for split, some in examples.items() for e in some if (split, e.id) not in found]
    for prediction in _written(model, written, sampling, title):
        found[prediction.split, prediction.id] = prediction
    return [found[split, example.id] for split, some in examples.items() for example in some]


def _written(
    model: LanguageModel, examples: Sequence[tuple[str, Example]], sampling: Sampling, title: str
) -> list[Prediction]:
    """What `model` writes to examples, given with their splits."""
    if not examples:
        return []
    answers = model.generate(
        [example.prompt for _, example in examples],
        sampling,
        references=[example.completion for _, example in examples],
        title=title,
    )
    return [
        Prediction(
            id=example.id,
            split=split,
            prompt=answer.prompt,
            reference=example.completion,
            references=example.references,
            prediction=answer.text,
            nll=math.nan if answer.reference_nll is None else answer.reference_nll,
            tokens=answer.reference_tokens,
            groups=example.groups,
            source=example.source,
        )
        for (split, example), answer in zip(examples, answers, strict=True)
    ]
