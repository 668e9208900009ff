"""What all methods of a run share: recipe, checkpoint, tokenizer, examples with their tokens."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from workbench import files
from workbench.data import Example, load_splits
from workbench.data.render import Pairs, Rendered, Renderer, make_renderer, render_all
from workbench.errors import MethodError, UserError, collected
from workbench.evaluation import Metric, find_metric
from workbench.methods import Method, find_method
from workbench.models import BITS, check_attachment, context_length, load_tokenizer, require_weights
from workbench.recipe import Recipe, load_recipe
from workbench.sources import Checkpoint, fetch_checkpoint
from workbench.training import TrainingRows, check_extra, find_objective, steps_in, training_rows

logger = logging.getLogger(__name__)

# Prompts from which methods such as prefix tuning may start.
TYPICAL_PROMPTS = 64


@dataclass(frozen=True, kw_only=True)
class Job:
    """A recipe, ready to be carried out.

    Attributes:
        path, sha256: of the recipe's file.
        pairs: split -> examples with their tokens, those too long left out; on disk.
        rows: what every training reads.
        too_long: split -> ids of the examples that were too long.
        repeated, leaked: training examples left out, see `workbench.data.Splits`.
        sources: split -> fingerprint of its rows, see `workbench.sources.Fingerprint`.
        adapter_only: method -> why it can't become a plain checkpoint, of those that can't.
    """

    recipe: Recipe
    path: Path
    sha256: str
    checkpoint: Checkpoint
    renderer: Renderer
    methods: Sequence[Method]
    metrics: Sequence[Metric]
    bits: int
    pairs: Mapping[str, Pairs]
    rows: TrainingRows
    too_long: Mapping[str, Sequence[str]]
    repeated: int
    leaked: int
    sources: Mapping[str, str] = field(default_factory=dict)
    adapter_only: Mapping[str, str] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Optimizer steps of a training, if it does not stop early."""
        return steps_in(self.recipe.training, len(self.rows.train))[0]

    def rendered(self, split: str) -> Sequence[Rendered]:
        """The tokens of a split's examples."""
        return self.pairs[split].rendered

    @property
    def evaluated(self) -> Mapping[str, Sequence[tuple[Example, Rendered]]]:
        """The splits that are scored."""
        return {split: self.pairs[split] for split in self.recipe.evaluated_splits}

    @property
    def typical_ids(self) -> list[int]:
        """Tokens of the first training prompts, one after another."""
        return [token for item in self.rendered("train")[:TYPICAL_PROMPTS] for token in item.prompt_ids]

    def learning_rate(self, method: Method) -> float:
        """The recipe's for this method, the recipe's for all, or the method's own."""
        chosen = self.recipe.settings.get(method.name, {}).get("learning_rate")
        rate = chosen or self.recipe.training.learning_rate or method.learning_rate
        assert rate is not None
        return float(rate)

    def settings(self, method: Method) -> dict[str, Any]:
        """The recipe's settings of this method, without the learning rate."""
        chosen = self.recipe.settings.get(method.name, {})
        return {name: value for name, value in chosen.items() if name != "learning_rate"}


def prepare(
    recipe_path: Path,
    *,
    methods: Sequence[str] | None = None,
    model: str | None = None,
    bits: int,
    limit: int | None = None,
) -> Job:
    """Load the recipe, the checkpoint's tokenizer and the data, and check all that can be checked cheaply.

    Args:
        methods: other methods than the recipe's.
        model: another checkpoint than the recipe's.
        bits: how the frozen base is held.
        limit: at most so many examples of each split.

    Raises:
        UserError: anything the user has to mend.
    """
    recipe = load_recipe(recipe_path)
    recipe = replace(recipe, methods=methods or recipe.methods, checkpoint=model or recipe.checkpoint)
    chosen = [find_method(name) for name in dict.fromkeys(recipe.methods)]
    metrics = [find_metric(name) for name in recipe.metrics]
    for name in recipe.settings:
        find_method(name)
    check_extra(recipe.training)
    find_objective(recipe.training.objective)
    if bits not in BITS:
        raise UserError(f"{bits} bits: the base can be held at {', '.join(map(str, BITS))}")
    if bits < 16 and (whole := [method.name for method in chosen if method.trains_base]):
        raise UserError(
            f"{', '.join(whole)} trains the base's own weights, which can't be held at {bits} bits: "
            "leave it out with --methods, or take --bits 16"
        )
    splits = load_splits(recipe.data, recipe.row_to_examples, limit)
    checkpoint = fetch_checkpoint(recipe.checkpoint)
    require_weights(checkpoint.path, bits)
    renderer = make_renderer(load_tokenizer(checkpoint.path))
    most = context_length(checkpoint.path)
    virtual = max(_virtual_tokens(recipe, method) for method in chosen)
    if most is not None and recipe.max_tokens + recipe.max_new_tokens + virtual > most:
        raise UserError(
            f"max_tokens {recipe.max_tokens}, max_new_tokens {recipe.max_new_tokens} and {virtual} virtual tokens are "
            f"more than the {most} tokens that {recipe.checkpoint} can read"
        )
    pairs: dict[str, Pairs] = {}
    too_long: dict[str, list[str]] = {}
    for split, examples in splits.examples.items():
        pairs[split], left_out = render_all(renderer, examples, recipe.max_tokens)
        too_long[split] = left_out
        if left_out:
            logger.warning(
                "%s: %d of %d examples have more than max_tokens=%d and are left out (%s%s)",
                split, len(left_out), len(examples), recipe.max_tokens,
                ", ".join(left_out[:3]), ", ..." * (len(left_out) > 3),
            )  # fmt: skip
        if not pairs[split]:
            raise UserError(f"{split}: every example has more than max_tokens={recipe.max_tokens} tokens")
    if splits.repeated or splits.leaked:
        logger.warning(
            "train: left out %d repeated examples and %d whose question stands in another split",
            splits.repeated, splits.leaked,
        )  # fmt: skip
    asked = {e.task for split in recipe.evaluated_splits for e, _ in pairs[split] if e.choices}
    if missing := asked - {e.task for e, _ in pairs["validation"] if e.choices}:
        raise UserError(
            f"validation has no examples with choices of {', '.join(map(repr, sorted(missing)))}, by which their "
            "likelihoods are calibrated"
        )
    job = Job(
        recipe=recipe,
        path=recipe_path,
        sha256=files.sha256_of(recipe_path),
        checkpoint=checkpoint,
        renderer=renderer,
        methods=chosen,
        metrics=metrics,
        bits=bits,
        pairs=pairs,
        rows=training_rows(pairs["train"].rendered, pairs["validation"].rendered, objective=recipe.training.objective),
        too_long=too_long,
        repeated=splits.repeated,
        leaked=splits.leaked,
        sources=splits.fingerprints,
    )
    return replace(job, adapter_only=_rehearsed(job))


def _virtual_tokens(recipe: Recipe, method: Method) -> int:
    return int({**method.settings, **recipe.settings.get(method.name, {})}.get("num_virtual_tokens", 0))


def _rehearsed(job: Job) -> dict[str, str]:
    """Find what is wrong with a method now, and not when its turn comes after hours of others.

    Returns:
        Method -> why it can't become a plain checkpoint, of those that can't.

    Raises:
        UserError: settings that a method does not know, or a model that it can't be used with.
    """
    problems, adapter_only = [], {}
    for method in job.methods:
        reason = method.why_adapter_only()
        if job.settings(method) or method.unsupported or callable(method.no_plain_checkpoint):
            try:
                reason = check_attachment(job.checkpoint.path, method, job.settings(method), job.typical_ids, job.steps)
            except UserError as error:
                problems.append(str(error))
            except (MethodError, RuntimeError, AttributeError, OSError) as error:
                # What needs weights or more data is seen when the method's turn comes.
                logger.debug("%s can't be rehearsed: %s", method.name, error)
        if reason and method.trains:
            adapter_only[method.name] = reason
            logger.info("%s ships as an adapter only: %s", method.name, reason)
    if problems:
        raise collected("methods", problems)
    return adapter_only
