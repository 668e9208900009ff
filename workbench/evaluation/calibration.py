"""From the likelihoods of choices to probabilities, by what the validation split shows to be best."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from workbench.data import Example, Message
from workbench.errors import UserError
from workbench.evaluation.prediction import Prediction
from workbench.evaluation.several import fit_thresholds, predicted
from workbench.generation.language_model import ChoiceLikelihoods, LanguageModel
from workbench.generation.pruning import Pruning

SUM, MEAN, CALIBRATED = "sum", "mean", "calibrated"
# With more choices than this, likelihoods under the constraint to write one of them, which need little more than the
# prompt to be read, are taken unless others are clearly better.
MANY = 16
# Prompts over which a choice's own likelihood is averaged, if all have the same choices; and how many choices are
# measured for it in all, if they don't.
CONTEXTS = 64
PRIOR_MEASUREMENTS = 2**12
# Choices that are read at most to fit a calibration, where the others may be left unread.
FITTED_CHOICES = 2**12
TEMPERATURES = np.geomspace(0.1, 20, 161)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How likelihoods of choices become probabilities.

    Attributes:
        by: "sum": the likelihood of the whole choice; "mean": of its average token, so that length doesn't count;
            "calibrated": how much the prompt raises it, so that a choice that is likely behind any prompt has no
            advantage (domain-conditional PMI, Holtzman et al. 2021, arXiv:2104.08315; Zhao et al. 2021,
            arXiv:2102.09690).
        constrained: the likelihood is that under the constraint to write one of the choices (constrained decoding,
            Hokamp and Liu 2017, arXiv:1704.07138; De Cao et al. 2021, arXiv:2010.00904); most choices are then known
            by their first token.
        temperature: by which scores are divided, so that probabilities tell how often they are right (Guo et al.
            2017, arXiv:1706.04599).
        prior: for "calibrated", log-likelihood of each choice behind any prompt.
        contexts: conversations behind which the prior was measured, where choices differ from example to example: so
            can that of others be.
        thresholds: by choice the probability above which it is taken, where several may be right at once.
        with_end: whether the end of the turn behind a choice counts. Where no choice begins another it says
            nothing, and isn't read.
        fitted_on: examples of the validation split whose choices were all read to find this.
    """

    by: str = SUM
    constrained: bool = False
    temperature: float = 1.0
    with_end: bool = True
    fitted_on: int = 0
    prior: Mapping[str, float] = field(default_factory=dict)
    contexts: Sequence[Sequence[Message]] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict)

    def line(self, choices: Sequence[str], tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Slopes and offsets by which log-likelihoods become scores: slope * log-likelihood - offset.

        Args:
            tokens: of each choice, (choices,).
        """
        slopes = np.full(len(choices), 1 / self.temperature)
        if self.by == MEAN:
            return slopes / tokens, np.zeros(len(choices))
        if self.by == CALIBRATED:
            return slopes, slopes * np.array([self.prior[choice] for choice in choices])
        return slopes, np.zeros(len(choices))

    def likelihoods(self, found: ChoiceLikelihoods) -> np.ndarray:
        """The log-likelihoods that count, (choices,).

        Raises:
            ValueError: the model doesn't tell those under a constraint.
        """
        if not self.constrained:
            return found.logprobs
        if found.constrained is None:
            raise ValueError("the model doesn't tell how likely choices are under the constraint to write one of them")
        return found.constrained

    def scores(self, choices: Sequence[str], found: ChoiceLikelihoods) -> np.ndarray:
        """Scores of choices, (choices,): their softmax are probabilities."""
        slopes, offsets = self.line(choices, found.tokens)
        scores: np.ndarray = slopes * self.likelihoods(found) - offsets
        return scores

    def log_probabilities(self, choices: Sequence[str], found: ChoiceLikelihoods) -> np.ndarray:
        """Log-probabilities of choices, (choices,): shares among those that were read to their end.

        Of `found.bounds` they are upper bounds, and all others are too high by no more than what these have.
        """
        scores = self.scores(choices, found)
        read = np.delete(scores, list(found.bounds))
        normal: np.ndarray = scores - read.max() - np.log(np.exp(read - read.max()).sum())
        return normal

    def summary(self) -> dict[str, Any]:
        """What stands in `results.json`."""
        thresholds = {"thresholds": dict(self.thresholds)} if self.thresholds else {}
        constrained = {"constrained": True} if self.constrained else {}
        shown = {"by": self.by, **constrained, "temperature": self.temperature, "fitted_on": self.fitted_on}
        return {**shown, **thresholds}


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Logarithms of the probabilities that belong to `scores`, over the last axis."""
    high = scores - scores.max(axis=-1, keepdims=True)
    normal: np.ndarray = high - np.log(np.exp(high).sum(axis=-1, keepdims=True))
    return normal


def choose(
    model: LanguageModel,
    examples: Sequence[Example],
    calibrations: Mapping[str, Calibration],
    split: str,
    title: str,
    prune: bool = False,
    kept: Collection[str] = (),
) -> list[Prediction]:
    """Let `model` choose an answer to every example; examples need no completion.

    Args:
        examples: with choices.
        calibrations: by task.
        split: in which the examples stand.
        title: in front of the progress bar; none for an empty one.
        prune: read only what tells the likeliest choice, its probability to `Pruning.tolerance` of it, and the
            completion's likelihood; see `Prediction.bounds` for what the others are then.
        kept: choices that are read in any case, wherever they stand.

    Raises:
        UserError: a choice that the model was not calibrated on, and can't be.
    """
    found: dict[str, Prediction] = {}
    for task in dict.fromkeys(example.task for example in examples):
        some = [example for example in examples if example.task == task]
        asked = (choice for example in some for choice in example.choices)
        calibration = with_prior(model, calibrations[task], asked, task)
        likelihoods = _likelihoods(model, some, calibration.with_end, title, calibration if prune else None, kept)
        found |= {p.id: p for p in _predictions(model, some, likelihoods, calibration, split)}
    return [found[example.id] for example in examples]


def with_prior(model: LanguageModel, calibration: Calibration, choices: Iterable[str], task: str = "") -> Calibration:
    """`calibration` of `task` with a prior for all of `choices`; measured where it has none yet."""
    new = list(dict.fromkeys(choice for choice in choices if choice not in calibration.prior))
    if calibration.by != CALIBRATED or not new:
        return calibration
    contexts = calibration.contexts
    if not contexts:
        raise UserError(f"{', '.join(map(repr, new[:3]))}: not among the choices that the model was calibrated on")
    measured = model.loglikelihood(
        contexts, [new] * len(contexts), end_of_turn=calibration.with_end, task=task, title="prior of new choices"
    )
    prior = dict(zip(new, _mean_likelihood([calibration.likelihoods(found) for found in measured]), strict=True))
    return replace(calibration, prior={**calibration.prior, **prior})


def fit_calibrations(
    model: LanguageModel,
    examples: Sequence[Example],
    asked: Sequence[Example],
    better: Callable[[Sequence[Prediction]], float],
    title: str,
    prune: bool = False,
) -> tuple[dict[str, Calibration], list[Prediction]]:
    """Find for each task how to turn likelihoods into probabilities.

    Args:
        examples: those with choices of the validation split.
        asked: those that are to be answered then, whose choices may be others.
        better: the score by which one way is better than another, higher is better.
        title: in front of progress bars.
        prune: fit to some of the examples where all have very many choices, see `fitting_sample`; of the others read
            only what `choose` does.

    Returns:
        By task, how; and the predictions for `examples` so.
    """
    found: dict[str, Calibration] = {}
    predictions: dict[str, Prediction] = {}
    for task in dict.fromkeys(example.task for example in examples):
        some = [example for example in examples if example.task == task]
        others = [example for example in asked if example.task == task]
        choices = list(dict.fromkeys(choice for example in [*some, *others] for choice in example.choices))
        few = fitting_sample(some) if prune else some
        heading = f"{title} {task}".strip()
        many = usual_calibration(choices, prune).constrained
        found[task], likelihoods = _fit(model, choices, few, better, heading, many)
        predictions |= {p.id: p for p in _predictions(model, few, likelihoods, found[task], "validation")}
        if rest := [example for example in some if example.id not in predictions]:
            predictions |= {p.id: p for p in choose(model, rest, found, "validation", heading, prune)}
    return found, [predictions[example.id] for example in examples]


def usual_calibration(choices: Sequence[str], prune: bool) -> Calibration:
    """What is most likely to be found for an example with these choices, before anything is."""
    return Calibration(constrained=prune and len(choices) > MANY)


def fitting_sample(examples: Sequence[Example]) -> list[Example]:
    """Examples that a calibration is fitted to: all, or so many that `FITTED_CHOICES` are read.

    Fewer are drawn with a fixed seed, and evenly over the right choices.
    """
    count = max(CONTEXTS, FITTED_CHOICES // max(len(example.choices) for example in examples))
    if len(examples) <= count:
        return list(examples)
    random = np.random.default_rng(0)
    shuffled = [examples[int(index)] for index in random.permutation(len(examples))]
    ordered = sorted(shuffled, key=lambda example: example.completion)
    taken = {ordered[int(place)].id for place in (random.random() + np.arange(count)) * len(examples) / count}
    return [example for example in examples if example.id in taken]


def _fit(
    model: LanguageModel,
    choices: Sequence[str],
    examples: Sequence[Example],
    better: Callable[[Sequence[Prediction]], float],
    title: str,
    many: bool,
) -> tuple[Calibration, list[ChoiceLikelihoods]]:
    """The calibration of one task, and the likelihoods it was found by.

    Args:
        many: there are so many choices that it counts how much must be read of them.
    """
    with_end = not prefix_free(choices)
    likelihoods = _likelihoods(model, examples, with_end, title)
    if any(example.labels is not None for example in examples):
        found_by = [dict(zip(e.choices, f.logprobs, strict=True)) for e, f in zip(examples, likelihoods, strict=True)]
        probabilities = np.exp([[logs[choice] for choice in choices] for logs in found_by])
        true = np.array([[choice in (e.labels or ()) for choice in choices] for e in examples])
        thresholds = dict(zip(choices, fit_thresholds(probabilities, true), strict=True))
        return Calibration(with_end=with_end, thresholds=thresholds, fitted_on=len(examples)), likelihoods
    contexts: list[Sequence[Message]] = []
    measured, of = likelihoods, examples[0].choices
    if len({example.choices for example in examples}) > 1:
        contexts, of = [example.prompt for example in _contexts(examples, len(choices))], tuple(choices)
        measured = model.loglikelihood(
            contexts, [choices] * len(contexts), end_of_turn=with_end, task=examples[0].task, title=f"{title} prior"
        )

    def best_of(ways: Sequence[str], constrained: bool) -> tuple[Calibration, list[Prediction]]:
        usual = Calibration(constrained=constrained, contexts=contexts, with_end=with_end, fitted_on=len(examples))
        prior = dict(zip(of, _mean_likelihood([usual.likelihoods(found) for found in measured]), strict=True))
        tried = [replace(usual, by=by, prior=prior) for by in ways]
        answers = [_predictions(model, examples, likelihoods, one, "validation") for one in tried]
        number = int(np.argmax([better(some) for some in answers]))  # the simplest of equals
        return tried[number], answers[number]

    best, answers = best_of((SUM, MEAN, CALIBRATED), constrained=False)
    if many and not contexts and all(found.constrained is not None for found in likelihoods):
        cheap, others = best_of((SUM, CALIBRATED), constrained=True)
        if not _clearly_better(answers, others):
            # An end that must follow is certain and costs nothing, and choices that are asked later may begin alike.
            best = replace(cheap, with_end=True)
    right = [example.choices.index(example.completion) for example in examples]
    scores = [best.scores(example.choices, found) for example, found in zip(examples, likelihoods, strict=True)]
    temperature = fit_temperature(scores, right)
    if best.by != CALIBRATED:
        best = replace(best, prior={}, contexts=())
    return replace(best, temperature=temperature), likelihoods


def _clearly_better(these: Sequence[Prediction], those: Sequence[Prediction]) -> bool:
    """Whether more of these are right than chance would have it: by two standard errors of the difference."""
    pairs = [(a.prediction == a.reference, b.prediction == b.reference) for a, b in zip(these, those, strict=True)]
    gains, losses = pairs.count((True, False)), pairs.count((False, True))
    return gains - losses > 2 * math.sqrt(gains + losses)


def _likelihoods(
    model: LanguageModel,
    examples: Sequence[Example],
    with_end: bool,
    title: str,
    prune_by: Calibration | None = None,
    kept: Collection[str] = (),
) -> list[ChoiceLikelihoods]:
    """How likely choices are; by `prune_by` only as far as the likeliest and the right one hang on it."""
    prompts, choices = [example.prompt for example in examples], [example.choices for example in examples]
    pruning = None
    if prune_by is not None:
        read = [[one for one in example.choices if one == example.completion or one in kept] for example in examples]
        pruning = Pruning(scores=prune_by.line, kept=read, constrained=prune_by.constrained)
    task = examples[0].task if examples else ""
    return model.loglikelihood(prompts, choices, end_of_turn=with_end, task=task, pruning=pruning, title=title)


def _predictions(
    model: LanguageModel,
    examples: Sequence[Example],
    likelihoods: Sequence[ChoiceLikelihoods],
    calibration: Calibration,
    split: str,
) -> list[Prediction]:
    """What was measured of examples, their right choices known or not."""
    found = []
    for example, measured in zip(examples, likelihoods, strict=True):
        if calibration.thresholds:
            prompt = model.prompt(example.prompt)
            found.append(predicted(example, list(measured.logprobs), calibration.thresholds, prompt, split))
            continue
        logs = calibration.log_probabilities(example.choices, measured)
        read = np.delete(np.arange(len(logs)), list(measured.bounds))
        right = example.choices.index(example.completion) if example.completion else None
        found.append(
            Prediction(
                id=example.id,
                split=split,
                prompt=model.prompt(example.prompt),
                reference=example.completion,
                prediction=example.choices[int(read[logs[read].argmax()])],
                nll=math.nan if right is None else -float(calibration.likelihoods(measured)[right]),
                tokens=0 if right is None else int(measured.tokens[right]),
                groups=example.groups,
                source=example.source,
                choices=dict(zip(example.choices, map(float, logs), strict=True)),
                bounds=frozenset(example.choices[number] for number in measured.bounds),
            )
        )
    return found


def prefix_free(sequences: Iterable[Sequence[Any]]) -> bool:
    """Whether no sequence begins another, nor stands there twice."""
    ordered = sorted(map(tuple, sequences))
    return not any(after[: len(before)] == before for before, after in pairwise(ordered))


def fit_temperature(scores: Sequence[np.ndarray], right: Sequence[int]) -> float:
    """The temperature under which the right choices are likeliest.

    Args:
        scores: of each example, (choices,).
        right: index of each example's right choice.
    """
    losses = [
        -np.mean([log_softmax(one / t)[index] for one, index in zip(scores, right, strict=True)]) for t in TEMPERATURES
    ]
    return float(TEMPERATURES[int(np.argmin(losses))])


def _contexts(examples: Sequence[Example], choices: int) -> Sequence[Example]:
    """A few examples of the validation split, evenly spread over it."""
    count = max(2, min(CONTEXTS, PRIOR_MEASUREMENTS // choices))
    return examples[:: max(1, len(examples) // count)][:count]


def _mean_likelihood(likelihoods: Sequence[np.ndarray]) -> list[float]:
    """Logarithm of each choice's mean likelihood behind several prompts, given the logarithms behind each."""
    logprobs = np.array(likelihoods)
    highest = logprobs.max(axis=0)
    return list(map(float, np.log(np.exp(logprobs - highest).mean(axis=0)) + highest))
