"""From the likelihoods of choices to probabilities, by what the validation split shows to be best."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from torch import nn

from workbench.console import progress_bar
from workbench.data import Example
from workbench.data.render import Rendered, Renderer
from workbench.errors import UserError
from workbench.evaluation.prediction import Prediction
from workbench.generation.branches import reads_branches
from workbench.generation.choices import choice_nlls
from workbench.models import has_linear_output, keep_memory

Pair = tuple[Example, Rendered]
SUM, MEAN, CALIBRATED = "sum", "mean", "calibrated"
# Prompts over which a choice's own likelihood is averaged, if all have the same choices; and how many choices are
# measured for it in all, if they don't.
CONTEXTS = 64
PRIOR_MEASUREMENTS = 2**12
PROMPTS_TOGETHER = 128
TEMPERATURES = np.geomspace(0.1, 20, 161)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How likelihoods become probabilities.

    Attributes:
        by: "sum": the likelihood of the whole choice; "mean": of its average token, so that length doesn't count;
            "calibrated": how much the prompt raises it, so that a choice that is likely behind any prompt has no
            advantage (domain-conditional PMI, Holtzman et al. 2021, arXiv:2104.08315; Zhao et al. 2021,
            arXiv:2102.09690).
        temperature: by which scores are divided, so that probabilities tell how often they are right (Guo et al.
            2017, arXiv:1706.04599).
        prior: for "calibrated", log-likelihood of each choice behind any prompt.
        contexts: prompts behind which the prior was measured, where choices differ from example to example: so can
            that of others be.
        with_end: whether the end of the turn behind a choice counts. Where no choice begins another it says
            nothing, and isn't read.
    """

    by: str = SUM
    temperature: float = 1.0
    with_end: bool = True
    prior: Mapping[str, float] = field(default_factory=dict)
    contexts: Sequence[str] = ()

    def scores(self, choices: Sequence[str], nll: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Scores of choices before the temperature, (choices,), from their nats and their numbers of tokens."""
        if self.by == MEAN:
            return -nll / tokens
        if self.by == CALIBRATED:
            return -nll - np.array([self.prior[choice] for choice in choices])
        return -nll

    def log_probabilities(self, choices: Sequence[str], nll: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Log-probabilities of choices, (choices,)."""
        return log_softmax(self.scores(choices, nll, tokens) / self.temperature)

    def summary(self) -> dict[str, Any]:
        """What stands in `results.json`."""
        return {"by": self.by, "temperature": self.temperature}


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Logarithms of the probabilities that belong to `scores`, over the last axis."""
    high = scores - scores.max(axis=-1, keepdims=True)
    normal: np.ndarray = high - np.log(np.exp(high).sum(axis=-1, keepdims=True))
    return normal


class ChoiceScorer:
    """A model that chooses.

    Args:
        model: in evaluation mode.
        renderer: of the prompts.
        choices: all that there are, of all examples; more can be made known later.
    """

    def __init__(self, model: nn.Module, renderer: Renderer, choices: Iterable[str] = ()) -> None:
        self.model = model
        self.renderer = renderer
        self.tokens: dict[str, list[int]] = {}
        self.linear_output = has_linear_output(model)
        self.branching = reads_branches(model)
        self.know(choices)

    def know(self, choices: Iterable[str]) -> None:
        """Make choices known that are not yet."""
        new = dict.fromkeys(choice for choice in choices if choice not in self.tokens)
        self.tokens |= self.renderer.completions(new)

    def measure(
        self, prompts: Sequence[list[int]], choices: Sequence[Sequence[str]], title: str, with_end: bool = True
    ) -> list[np.ndarray]:
        """Nats of the choices behind each prompt.

        Args:
            prompts: token ids.
            with_end: count the end of the turn, too.
            title: in front of the progress bar; none for an empty one.
        """
        keep_memory()
        pad_id = self.renderer.tokenizer.pad_token_id or 0
        order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
        found: dict[int, np.ndarray] = {}
        with progress_bar(title, total=len(prompts), unit="choice") as bar:
            for start in range(0, len(order), PROMPTS_TOGETHER):
                batch = order[start : start + PROMPTS_TOGETHER]
                nll = choice_nlls(
                    self.model,
                    [prompts[index] for index in batch],
                    [[self.ids(choice, with_end) for choice in choices[index]] for index in batch],
                    pad_id,
                    self.linear_output,
                    self.branching,
                )
                found.update((index, np.array(values)) for index, values in zip(batch, nll, strict=True))
                bar.update(len(batch))
        return [found[index] for index in range(len(prompts))]

    def with_prior(self, calibration: Calibration, choices: Iterable[str]) -> Calibration:
        """`choosing` with a prior for all of `choices`; measured where it has none yet."""
        new = [choice for choice in choices if choice not in calibration.prior]
        if calibration.by != CALIBRATED or not new:
            return calibration
        contexts = [self.renderer.tokens(text) for text in calibration.contexts]
        if not contexts:
            raise UserError(f"{', '.join(map(repr, new[:3]))}: not among the choices that the model was calibrated on")
        nll = self.measure(contexts, [new] * len(contexts), "prior of new choices", calibration.with_end)
        measured = dict(zip(new, _mean_likelihood(np.array(nll)), strict=True))
        return replace(calibration, prior={**calibration.prior, **measured})

    def ids(self, choice: str, with_end: bool) -> list[int]:
        """Token ids of a choice, with or without the end of the turn."""
        return self.tokens[choice] if with_end else self.tokens[choice][:-1]

    def counts(self, choices: Sequence[str], with_end: bool) -> np.ndarray:
        """Tokens of each choice."""
        return np.array([len(self.ids(choice, with_end)) for choice in choices])

    def choose(
        self, split: str, pairs: Sequence[Pair], calibration: Mapping[str, Calibration], title: str
    ) -> list[Prediction]:
        """Choose an answer to every example.

        Args:
            choosing: by task.
            title: in front of the progress bar; none for an empty one.
        """
        self.know(choice for example, _ in pairs for choice in example.choices)
        found: dict[str, Prediction] = {}
        for task in dict.fromkeys(example.task for example, _ in pairs):
            some = [pair for pair in pairs if pair[0].task == task]
            given = [example.choices for example, _ in some]
            way = self.with_prior(calibration[task], dict.fromkeys(choice for choices in given for choice in choices))
            nll = self.measure([rendered.prompt_ids for _, rendered in some], given, title, way.with_end)
            found |= {answer.id: answer for answer in self.answers(split, some, nll, {task: way})}
        return [found[example.id] for example, _ in pairs]

    def answers(
        self, split: str, pairs: Sequence[Pair], nll: Sequence[np.ndarray], calibration: Mapping[str, Calibration]
    ) -> list[Prediction]:
        """What was measured, as answers to the examples.

        Args:
            choosing: by task.
        """
        for example, rendered in pairs:
            if example.completion and rendered.completion_ids != self.tokens[example.completion]:
                raise UserError(
                    f"{example.id}: the chat template writes the choice {example.completion!r} in other tokens behind "
                    "this prompt than behind another"
                )
        return [
            self._answer(example, rendered.text, values, calibration[example.task], split)
            for (example, rendered), values in zip(pairs, nll, strict=True)
        ]

    def _answer(
        self, example: Example, prompt: str, nll: np.ndarray, calibration: Calibration, split: str
    ) -> Prediction:
        """What was measured of one example, its right choice known or not."""
        counts = self.counts(example.choices, calibration.with_end)
        logs = calibration.log_probabilities(example.choices, nll, counts)
        right = example.choices.index(example.completion) if example.completion else None
        return Prediction(
            id=example.id,
            split=split,
            prompt=prompt,
            reference=example.completion,
            prediction=example.choices[int(logs.argmax())],
            nll=math.nan if right is None else float(nll[right]),
            tokens=0 if right is None else int(counts[right]),
            groups=example.groups,
            source=example.source,
            choices=dict(zip(example.choices, map(float, logs), strict=True)),
        )


def fit_calibration(
    scorer: ChoiceScorer,
    pairs: Sequence[Pair],
    asked: Sequence[Example],
    better: Callable[[Sequence[Prediction]], float],
    title: str,
) -> tuple[dict[str, Calibration], list[Prediction]]:
    """Find for each task how to turn likelihoods into probabilities.

    Args:
        chooser: who chooses; knows all choices.
        pairs: examples with choices of the validation split.
        asked: those that are to be answered then, whose choices may be others.
        better: the score by which one way is better than another, higher is better.
        title: in front of progress bars.

    Returns:
        By task, how; and the answers to `pairs` so.
    """
    found: dict[str, Calibration] = {}
    answers: dict[str, Prediction] = {}
    for task in dict.fromkeys(example.task for example, _ in pairs):
        some = [pair for pair in pairs if pair[0].task == task]
        given = [*(example for example, _ in some), *(example for example in asked if example.task == task)]
        choices = list(dict.fromkeys(choice for example in given for choice in example.choices))
        found[task], nll = _fit(scorer, task, choices, some, better, f"{title} {task}".strip())
        answers |= {answer.id: answer for answer in scorer.answers("validation", some, nll, found)}
    return found, [answers[example.id] for example, _ in pairs]


def _fit(
    scorer: ChoiceScorer,
    task: str,
    choices: Sequence[str],
    pairs: Sequence[Pair],
    better: Callable[[Sequence[Prediction]], float],
    title: str,
) -> tuple[Calibration, list[np.ndarray]]:
    examples = [example for example, _ in pairs]
    with_end = not prefix_free(scorer.tokens[choice][:-1] for choice in choices)
    prompts = [rendered.prompt_ids for _, rendered in pairs]
    nll = scorer.measure(prompts, [e.choices for e in examples], title, with_end)
    contexts: list[str] = []
    if len({example.choices for example in examples}) == 1:
        prior = dict(zip(examples[0].choices, _mean_likelihood(np.array(nll)), strict=True))
    else:
        some = _contexts(pairs, len(choices))
        contexts = [rendered.text for _, rendered in some]
        given = scorer.measure([r.prompt_ids for _, r in some], [choices] * len(some), f"{title} prior", with_end)
        prior = dict(zip(choices, _mean_likelihood(np.array(given)), strict=True))
    tried = [Calibration(by=by, prior=prior, contexts=contexts, with_end=with_end) for by in (SUM, MEAN, CALIBRATED)]
    values = [better(scorer.answers("validation", pairs, nll, {task: calibration})) for calibration in tried]
    best = tried[int(np.argmax(values))]  # the simplest of equals
    right = [example.choices.index(example.completion) for example in examples]
    scores = [
        best.scores(example.choices, values, scorer.counts(example.choices, with_end))
        for example, values in zip(examples, nll, strict=True)
    ]
    temperature = fit_temperature(scores, right)
    if best.by != CALIBRATED:
        best = replace(best, prior={}, contexts=())
    return replace(best, temperature=temperature), nll


def prefix_free(sequences: Iterable[Sequence[int]]) -> bool:
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


def _contexts(pairs: Sequence[Pair], choices: int) -> Sequence[Pair]:
    """A few examples of the validation split, evenly spread over it."""
    count = max(2, min(CONTEXTS, PRIOR_MEASUREMENTS // choices))
    return pairs[:: max(1, len(pairs) // count)][:count]


def _mean_likelihood(nll: np.ndarray) -> list[float]:
    """Logarithm of the mean likelihood: (prompts, choices) -> (choices,)."""
    lowest = nll.min(axis=0)
    return list(map(float, np.log(np.exp(lowest - nll).mean(axis=0)) - lowest))
