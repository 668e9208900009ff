"""What of a recipe's job fits into the time that a run is given; the same for every method."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from workbench.data.pairs import Pairs
    from workbench.run.heads import Head
    from workbench.run.prepare import Job

# A run that ends in time leaves so much of it unplanned: forecasts are off, and machines get busy.
RESERVE = 0.1
# The least that tells anything: optimizer steps of a method, and scored examples of a split.
LEAST_STEPS = 20
LEAST_EXAMPLES = 24
# Of the time that training and evaluation can share, evaluation gets so much before training is cut.
EVALUATION_SHARE = 0.35
# By which the evaluated part of a split is drawn: it hangs on no seed of a run, so that runs can be compared.
PART_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What part of a recipe's job is carried out; it is kept with the options of a run.

    Attributes:
        minutes: that the run was given; None without a limit.
        steps: optimizer steps of every method; None for the recipe's own.
        validation: rows by which the validation loss is measured; None for all.
        evaluated: split -> how many of its examples are scored; all of a split that isn't named.
    """

    minutes: float | None = None
    steps: int | None = None
    validation: int | None = None
    evaluated: Mapping[str, int] = field(default_factory=dict)


def planned(job: "Job", plan: Plan | None) -> "Job":
    """The part of `job` that `plan` says."""
    if plan is None:
        return job
    if plan.steps is not None:
        recipe = replace(job.recipe, training=replace(job.recipe.training, max_steps=plan.steps))
        job = replace(job, recipe=recipe)
    if plan.validation is not None:
        heads = {name: _validated_on(head, plan.validation) for name, head in job.heads.items()}
        job = replace(job, heads=heads, head=heads[job.head.name])
    parts = {split: part_of(job.pairs[split], count) for split, count in plan.evaluated.items()}
    return replace(job, parts=parts)


def _validated_on(head: "Head", count: int) -> "Head":
    """A head whose validation loss is measured on so many rows."""
    if head.rows is None:
        return head
    some = _some(len(head.rows.validation), count)
    return replace(head, rows=replace(head.rows, validation=head.rows.validation.select(some)))


def part_of(pairs: "Pairs", count: int) -> "Pairs":
    """A random part of about `count` examples, always the same, in their order; of one source all or none.

    The part for a smaller count is a part of that for a larger one.
    """
    if count >= len(pairs):
        return pairs
    members: dict[str, list[int]] = {}
    for index, (example, _) in enumerate(pairs):
        members.setdefault(example.source or example.id, []).append(index)
    sources = list(members.values())
    chosen: list[int] = []
    for number in np.random.default_rng(PART_SEED).permutation(len(sources)):
        if len(chosen) >= count:
            break
        chosen += sources[int(number)]
    return pairs.part(sorted(chosen))


def _some(total: int, count: int) -> list[int]:
    """Indices of a random part of `count` of `total`, always the same, in their order."""
    return sorted(map(int, np.random.default_rng(PART_SEED).permutation(total)[:count]))


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """What a run consists of, and what it takes, in seconds for all entries and seeds together.

    Attributes:
        fixed: what no cut makes shorter.
        step: of an optimizer step of every method.
        steps: of the recipe.
        validation: of one validation of every method, on all rows.
        validations: of a training.
        validation_rows: how many there are.
        evaluation: of all examples of all evaluated splits.
        proof: of the exports, for each example that they are proven on.
        proven: examples that they are proven on at most.
        examples: split -> how many there are.
    """

    fixed: float
    step: float
    steps: int
    validation: float
    validations: int
    validation_rows: int
    evaluation: float
    proof: float = 0.0
    proven: int = 0
    examples: Mapping[str, int]


def fit(amounts: Amounts, seconds: float, minutes: float) -> Plan | float:
    """The plan that ends in time.

    Args:
        seconds: that are left.
        minutes: that the run was given, as the plan keeps it.

    Returns:
        The plan; or, where not even the least that is useful would end in time, the seconds that it would take.
    """
    total = sum(amounts.examples.values())
    proofs = amounts.proof * min(amounts.proven, total)
    plan = _fit(replace(amounts, fixed=amounts.fixed + proofs, proof=0.0), seconds, minutes)
    if isinstance(plan, Plan) and sum({**amounts.examples, **plan.evaluated}.values()) >= amounts.proven:
        return plan
    of_few = _fit(amounts, seconds, minutes)  # so few are scored that a proof is shorter, too
    return of_few if isinstance(of_few, Plan) or isinstance(plan, Plan) else min(plan, of_few)


def _fit(amounts: Amounts, seconds: float, minutes: float) -> Plan | float:
    """The same where every example that is scored is one that exports are proven on."""
    to_share = seconds * (1 - RESERVE) - amounts.fixed
    total = sum(amounts.examples.values())
    scored = amounts.evaluation / max(1, total)
    example = scored + amounts.proof
    fewest = {split: min(count, LEAST_EXAMPLES) for split, count in amounts.examples.items()}
    validating = amounts.validation * amounts.validations
    training = amounts.step * amounts.steps + validating
    if training + example * total <= to_share:
        return Plan(minutes=minutes)
    least_steps = min(amounts.steps, LEAST_STEPS)
    least_rows = min(amounts.validation_rows, LEAST_EXAMPLES) / max(1, amounts.validation_rows)
    least_training = amounts.step * least_steps + validating * least_rows
    least_evaluation = example * sum(fewest.values())
    if least_training + least_evaluation > to_share:
        return (amounts.fixed + least_training + least_evaluation) / (1 - RESERVE)
    # What evaluation doesn't need is training's, and the other way round.
    share = example / (scored / EVALUATION_SHARE + amounts.proof) if example else EVALUATION_SHARE
    evaluating = min(example * total, max(share * to_share, to_share - training))
    evaluating = max(least_evaluation, min(evaluating, to_share - least_training))
    evaluated = _spread(amounts.examples, fewest, math.floor(evaluating / example) if example else total)
    rest = to_share - example * sum(evaluated.values())
    # Validation keeps its share of the training.
    rows = max(least_rows, min(1.0, rest / training))
    steps = math.floor((rest - validating * rows) / amounts.step) if amounts.step else amounts.steps
    steps = min(amounts.steps, max(least_steps, steps))
    return Plan(
        minutes=minutes,
        steps=None if steps == amounts.steps else steps,
        validation=None if rows == 1.0 else math.floor(rows * amounts.validation_rows),
        evaluated={} if evaluated == amounts.examples else evaluated,
    )


def _spread(examples: Mapping[str, int], fewest: Mapping[str, int], count: int) -> dict[str, int]:
    """`count` examples spread over splits by their sizes, `fewest` or more of each."""
    further = sum(examples.values()) - sum(fewest.values())
    share = min(1.0, max(0, count - sum(fewest.values())) / further) if further else 1.0
    return {split: fewest[split] + math.floor(share * (n - fewest[split])) for split, n in examples.items()}
