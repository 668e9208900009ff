"""Of choices: is the right one the likeliest, is it near the top, and are the probabilities true?"""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from workbench.errors import UserError
from workbench.evaluation.metrics.metric import Metric
from workbench.evaluation.prediction import Prediction
from workbench.generation.pruning import TOLERANCE

# Bins of confidence for the calibration error, and classes by which a score may be taken.
BINS = 10
MOST_CLASSES = 1000
TOP = 10


def classes(answers: Sequence[Prediction]) -> list[str]:
    """All choices of `answers`, in the order of their first appearance."""
    return list(dict.fromkeys(choice for answer in answers for choice in answer.choices))


def right_statistics(answers: Sequence[Prediction]) -> np.ndarray:
    """1 where the right choice was taken, and 1: (answers, 2)."""
    return np.array([(answer.prediction == answer.reference, 1.0) for answer in answers]).reshape(-1, 2)


def percent(sums: np.ndarray) -> float:
    """The first sum as a share of the second."""
    return float(100 * sums[0] / sums[1])


def share(sums: np.ndarray) -> float:
    """The first sum divided by the second."""
    return float(sums[0] / sums[1])


def _few_classes(answers: Sequence[Prediction]) -> list[str]:
    names = classes(answers)
    if len(names) > MOST_CLASSES:
        raise UserError(f"{len(names)} different choices are no classes: take accuracy, auc, hit_10 or ndcg_10")
    return names


def confusion(answers: Sequence[Prediction]) -> np.ndarray:
    """How often which choice was taken where which was right: (classes, classes), in the order of `classes`.

    Rows are the right class, columns the chosen one.
    """
    names = classes(answers)
    number = {name: index for index, name in enumerate(names)}
    cells = np.zeros((len(names), len(names)))
    for answer in answers:
        cells[number[answer.reference], number[answer.prediction]] += 1
    return cells


def agreement_statistics(answers: Sequence[Prediction]) -> np.ndarray:
    """Whether the right choice was taken, then of each class whether it is right, and whether it was chosen.

    Returns:
        (answers, 1 + 2 classes)

    Raises:
        UserError: there are too many classes for that.
    """
    number = {name: index for index, name in enumerate(_few_classes(answers), 1)}
    cells = np.zeros((len(answers), 1 + 2 * len(number)))
    for row, answer in zip(cells, answers, strict=True):
        row[[number[answer.reference], number[answer.prediction] + len(number)]] = 1
        row[0] = answer.prediction == answer.reference
    return cells


def class_statistics(answers: Sequence[Prediction]) -> np.ndarray:
    """Of each class whether it is right and was chosen, and how often it is one of the two: (answers, 2 classes).

    Raises:
        UserError: there are too many classes for that.
    """
    names = _few_classes(answers)
    cells = np.zeros((len(answers), 2, len(names)))
    for row, answer in zip(cells, answers, strict=True):
        right = np.isin(names, answer.right if answer.right is not None else [answer.reference])
        chosen = np.isin(names, answer.chosen if answer.chosen is not None else [answer.prediction])
        row[:] = right & chosen, right.astype(int) + chosen
    return cells.reshape(len(answers), -1)


def macro_f1(sums: np.ndarray) -> float:
    """Mean over classes of F1, in percent; of classes that neither stand in the references nor were chosen, none."""
    both, either = sums.reshape(2, -1)
    return float(100 * np.mean(2 * both[either > 0] / either[either > 0])) if either.any() else 100.0


def micro_f1(sums: np.ndarray) -> float:
    """F1 of all classes taken together, in percent."""
    both, either = sums.reshape(2, -1).sum(axis=1)
    return float(200 * both / either) if either else 100.0


def matthews(sums: np.ndarray) -> float:
    """Matthews correlation for several classes (Gorodkin 2004); 0 where one class was always chosen."""
    right, (truth, chosen) = sums[0], sums[1:].reshape(2, -1)
    total = truth.sum()
    scale = math.sqrt(float((total**2 - chosen @ chosen) * (total**2 - truth @ truth)))
    return float((right * total - truth @ chosen) / scale) if scale else 0.0


def calibration_statistics(answers: Sequence[Prediction]) -> np.ndarray:
    """Of each bin of confidence, 1, the confidence, and whether it was right: (answers, 3 bins)."""
    cells = np.zeros((len(answers), BINS, 3))
    for row, answer in zip(cells, answers, strict=True):
        confidence = math.exp(max(answer.choices.values()))
        row[min(BINS - 1, int(confidence * BINS))] = (1, confidence, answer.prediction == answer.reference)
    return cells.reshape(len(answers), -1)


def calibration_error(sums: np.ndarray) -> float:
    """Mean distance of confidence and accuracy over ten bins of confidence, in percent (Guo et al. 2017)."""
    cells = sums.reshape(BINS, 3)
    return float(100 * np.abs(cells[:, 1] - cells[:, 2]).sum() / cells[:, 0].sum())


def rank(answer: Prediction) -> tuple[float, int]:
    """How many choices are likelier than the right one, equals counting half, and how many others there are.

    Raises:
        ValueError: that was left open where choices were not read to their end.
    """
    of_right = answer.choices[answer.reference]
    if any(choice == answer.reference or answer.choices[choice] >= of_right for choice in answer.bounds):
        raise ValueError(f"{answer.id}: how many choices are likelier than the right one was not measured")
    others = [value for choice, value in answer.choices.items() if choice != answer.reference]
    return sum((value > of_right) + 0.5 * (value == of_right) for value in others), len(others)


def auc_statistics(answers: Sequence[Prediction]) -> np.ndarray:
    """Share of wrong choices that are less likely than the right one, and 1: (answers, 2)."""
    return np.array([(1 - above / others, 1.0) for above, others in map(rank, answers)]).reshape(-1, 2)


def hit_statistics(answers: Sequence[Prediction]) -> np.ndarray:
    """1 where the right choice is among the likeliest ten, and 1: (answers, 2)."""
    return np.array([(rank(answer)[0] < TOP, 1.0) for answer in answers]).reshape(-1, 2)


def ndcg_statistics(answers: Sequence[Prediction]) -> np.ndarray:
    """Gain of the right choice's place if it is among the first ten, and 1: (answers, 2)."""
    places = [rank(answer)[0] for answer in answers]
    return np.array([(1 / math.log2(place + 2) if place < TOP else 0.0, 1.0) for place in places]).reshape(-1, 2)


def choice_signature(answers: Sequence[Prediction]) -> str:
    """What is compared, and how exactly probabilities are known."""
    some_unread = any(answer.bounds for answer in answers)
    unread = f"; probabilities to {TOLERANCE:.1%} of themselves" if some_unread else ""
    return f"likelihood of each choice given the prompt{unread}"


_of_choices = partial(Metric, applies=lambda answer: bool(answer.choices), signature=choice_signature)
# What only a question with one right choice has.
_of_one_choice = partial(_of_choices, applies=lambda answer: bool(answer.choices) and answer.chosen is None)
METRICS = (
    _of_choices(
        name="accuracy",
        title="accuracy",
        summary="share of examples whose right choice is the likeliest, in percent; of labels, all and no others.",
        statistics=right_statistics,
        score=percent,
        higher_is_better=True,
        worst=0,
        best=100,
        needs_all_choices=False,
    ),
    _of_choices(
        name="macro_f1",
        title="macro F1",
        summary="F1 of each class, averaged so that small classes count as much as large ones, in percent.",
        statistics=class_statistics,
        score=macro_f1,
        higher_is_better=True,
        worst=0,
        best=100,
        most_classes=MOST_CLASSES,
        needs_all_choices=False,
    ),
    _of_choices(
        name="micro_f1",
        title="micro F1",
        summary="F1 of all labels taken together, in percent; where exactly one is right, it is the accuracy.",
        statistics=class_statistics,
        score=micro_f1,
        higher_is_better=True,
        worst=0,
        best=100,
        most_classes=MOST_CLASSES,
        needs_all_choices=False,
    ),
    _of_one_choice(
        name="mcc",
        title="Matthews",
        summary="Matthews correlation between right and chosen classes: 1 is perfect, 0 is chance.",
        statistics=agreement_statistics,
        score=matthews,
        higher_is_better=True,
        worst=-1,
        best=1,
        chance=0.0,
        most_classes=MOST_CLASSES,
        needs_all_choices=False,
    ),
    _of_one_choice(
        name="ece",
        title="calibration error",
        summary="expected calibration error: how far confidence is from accuracy, in ten bins, in percent.",
        statistics=calibration_statistics,
        score=calibration_error,
        higher_is_better=False,
        worst=100,
        best=0,
        needs_all_choices=False,
    ),
    _of_one_choice(
        name="auc",
        title="AUC",
        summary="probability that the right choice is held for likelier than a wrong one.",
        statistics=auc_statistics,
        score=share,
        higher_is_better=True,
        worst=0,
        best=1,
        chance=0.5,
    ),
    _of_one_choice(
        name="hit_10",
        title="hit rate at 10",
        summary="share of examples whose right choice is among the ten likeliest, in percent.",
        statistics=hit_statistics,
        score=percent,
        higher_is_better=True,
        worst=0,
        best=100,
    ),
    _of_one_choice(
        name="ndcg_10",
        title="NDCG at 10",
        summary="normalised discounted cumulative gain: how near to the top the right choice is, among the first ten.",
        statistics=ndcg_statistics,
        score=share,
        higher_is_better=True,
        worst=0,
        best=1,
    ),
)
