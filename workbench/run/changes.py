"""What else is another in a model of a run: on a general text, and on some examples that it was trained on and not."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import logsumexp
from torch import nn

from workbench.data import Example
from workbench.data.pairs import Pairs
from workbench.data.render import Rendered
from workbench.device import device
from workbench.evaluation.changes import general_loss, membership, token_losses, verbatim
from workbench.models import bfloat16_is_fast
from workbench.results import Changes, Score
from workbench.run.prepare import Job

# Examples of each side at most, evenly spread, and of those that are scored so large a share: what is looked at beside
# must take little. With fewer than `FEWEST` nothing is said of what can be told from outside.
EXAMPLES, SHARE, FEWEST = 100, 0.5, 10

Sample = list[tuple[Example, Rendered]]


def changes_of(job: Job, model: nn.Module) -> Changes:
    """Look at a model as it is scored.

    Args:
        model: with the head that the job is looked at for, in evaluation mode, and computing as fast as it can.
    """
    seen, unseen = samples(job)
    if not reads_every_row(job):  # nobody knows which of them were trained on
        seen, unseen = [], []
    if job.head.labels is not None:
        of_classes = [_class_losses(job, model, some) for some in (seen, unseen)]
        return Changes(membership=_area(*of_classes), trained_on=len(of_classes[0]), held_out=len(of_classes[1]))
    tokenizer = job.renderer.tokenizer
    pad_id = tokenizer.pad_token_id or 0
    with reading_as_trained(job):
        losses, others = (token_losses(model, [item for _, item in some], pad_id) for some in (seen, unseen))
    written = [number for number, (example, _) in enumerate(seen) if not example.choices]
    said, named = verbatim(
        tokenizer,
        [seen[number][1] for number in written],
        [" ".join(message["content"] for message in seen[number][0].prompt) for number in written],
        [losses[number] for number in written],
    )
    return Changes(
        general_loss=general_loss(model, tokenizer),
        membership=_area([one.mean for one in losses], [one.mean for one in others]),
        trained_on=len(seen),
        held_out=len(unseen),
        named=named,
        verbatim=said,
    )


def reading_as_trained(job: Job) -> torch.autocast:
    """While it is open, models compute as they do in a training; rounding is no matter where losses are told apart."""
    return torch.autocast(device().type, torch.bfloat16, enabled=job.bits < 32 and bfloat16_is_fast())


def reads_every_row(job: Job) -> bool:
    """Whether a training of the job comes to all of its rows."""
    return job.steps * job.recipe.training.batch_size >= len(job.rows.train)


def _area(seen: Sequence[float], unseen: Sequence[float]) -> Score | None:
    return membership(seen, unseen) if min(len(seen), len(unseen)) >= FEWEST else None


def samples(job: Job) -> tuple[Sample, Sample]:
    """Some examples that are trained on, and some that are not, of the validation split first."""
    pairs, count = job.pairs, number_of(job)
    kinds = {(example.task, bool(example.choices)) for example, _ in _some(pairs["train"], count)}
    unseen: Sample = []
    for split in dict.fromkeys(("validation", *job.recipe.evaluated_splits)):
        found = [one for one in _some(pairs[split], count) if (one[0].task, bool(one[0].choices)) in kinds]
        unseen += found[: count - len(unseen)]
    trained = {(example.task, bool(example.choices)) for example, _ in unseen}
    seen = [one for one in _some(pairs["train"], count) if (one[0].task, bool(one[0].choices)) in trained]
    return seen, unseen


def number_of(job: Job) -> int:
    """Examples of each side."""
    return max(FEWEST, min(EXAMPLES, int(SHARE * sum(map(len, job.evaluated.values())))))


def tokens_read(job: Job) -> int:
    """Of all that is looked at."""
    return sum(item.length for some in samples(job) for _, item in some)


def _some(pairs: Pairs, count: int) -> Sample:
    """So many at most, evenly spread."""
    numbers = np.unique(np.linspace(0, len(pairs) - 1, min(count, len(pairs))).astype(int))
    return list(pairs.part(list(map(int, numbers))))


def _class_losses(job: Job, model: nn.Module, some: Sample) -> list[float]:
    """Negative log-likelihoods of the right classes, of examples that have one, in nats."""
    asked: dict[str, list[Example]] = {}
    for example, _ in some:
        if example.labels is None:
            asked.setdefault(example.task, []).append(example)
    classifier = job.head.language_model(model)
    losses: list[float] = []
    for task, examples in asked.items():
        found = classifier.loglikelihood([e.prompt for e in examples], [e.choices for e in examples], task=task)
        losses += [_loss(example, one.logprobs) for example, one in zip(examples, found, strict=True)]
    return losses


def _loss(example: Example, logprobs: Sequence[float] | np.ndarray) -> float:
    return float(logsumexp(logprobs) - logprobs[example.choices.index(example.completion)])
