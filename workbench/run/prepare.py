"""What all entries of a run share: recipe, checkpoint, tokenizer, examples with their tokens."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

from workbench.data import Example
from workbench.data.pairs import Pairs, Rendered
from workbench.data.prepared import PreparedData, prepare_data
from workbench.data.render import Renderer, make_renderer
from workbench.data.store import Store
from workbench.errors import MethodError, UserError, collected, unknown
from workbench.evaluation import Metric, find_metrics
from workbench.methods import Mergeability, Mergeable, Method, NotMergeable, method_and_head
from workbench.models import (
    BITS,
    SHIPPED,
    Precision,
    check_attachment,
    context_length,
    load_tokenizer,
    precision_of,
    require_causal,
    require_sizes,
    require_weights,
)
from workbench.recipe import LIKELIHOOD, Recipe
from workbench.run.defaults import completed
from workbench.run.entries import Entry, TunedEntry, entries_of, search_space_of, settings_of, tuned_entries
from workbench.run.heads import Head, heads_of
from workbench.run.memory import require_memory
from workbench.run.remarks import remarks_on, require_metrics
from workbench.sources import Checkpoint, fetch_checkpoint
from workbench.training import TrainingRows, check_extra, find_objective, steps_in
from workbench.training.trackers import ALWAYS

logger = logging.getLogger(__name__)

# Prompts from which methods such as prefix tuning may start.
TYPICAL_PROMPTS = 64


@dataclass(frozen=True, kw_only=True)
class Job:
    """A recipe, ready to be carried out.

    Attributes:
        entries: what is compared, in the order of the table.
        bits: how the frozen base is held while training.
        trackers, group, id: where its trainings are tracked, what the run is called there, and by what it is known.
        shipped_in: in what it is scored, merged and proven, one of `SHIPPED`.
        data: every split, ready for the checkpoint.
        heads: by name; see `workbench.run.heads`.
        head: of these, the one that the job is looked at for; see `of`.
        mergeability: name of a tuned entry -> whether it can become a merged checkpoint, as far as that can be told
            before training.
        parts: split -> the part of it that is scored, where that isn't all of it.
        kept: where what frozen layers give is kept, of this process alone; None for beside the data.
        fetching_seconds: in which the checkpoint was fetched, if it was not there.
    """

    recipe: Recipe
    checkpoint: Checkpoint
    entries: Sequence[Entry]
    metrics: Sequence[Metric]
    bits: int
    data: PreparedData
    heads: Mapping[str, Head]
    head: Head
    mergeability: Mapping[str, Mergeability]
    parts: Mapping[str, Pairs] = field(default_factory=dict)
    shipped_in: str = "float32"
    trackers: Sequence[str] = (ALWAYS,)
    group: str = "run"
    id: str = ""
    kept: Path | None = None
    fetching_seconds: float = 0.0

    @property
    def pairs(self) -> Mapping[str, Pairs]:
        """Examples with their tokens by split, those too long left out; on disk."""
        return self.data.pairs

    def of(self, entry: TunedEntry) -> "Job":
        """The same job, looked at for the head of an entry."""
        return replace(self, head=self.heads[entry.head])

    @property
    def renderer(self) -> Renderer:
        """Of the prompts of the head."""
        return self.head.renderer

    @property
    def shipped_bits(self) -> int:
        """Of a number of what is scored, merged and proven: 32 or 16."""
        return SHIPPED[self.shipped_in]

    @property
    def rows(self) -> TrainingRows:
        """What every training of the head reads."""
        rows = self.head.rows or next(head.rows for head in self.heads.values() if head.rows)
        assert rows is not None
        return rows

    @property
    def tuned(self) -> list[TunedEntry]:
        """The entries that a method makes, the untuned checkpoint among them."""
        return [entry for entry in self.entries if isinstance(entry, TunedEntry)]

    def name_of(self, method: Method) -> str:
        """What the entry of a method with the head is called."""
        return next(e.name for e in tuned_entries(self.recipe, method.name) if e.head == self.head.name)

    @cached_property
    def remarks(self) -> Mapping[str, Sequence[str]]:
        """Split -> what the reader of its scores should know of it."""
        return remarks_on(self.recipe, self.data)

    @property
    def primary_metric(self) -> Metric:
        """The one by which entries are ranked."""
        return next(metric for metric in self.metrics if metric.name == self.recipe.primary_metric)

    @property
    def steps(self) -> int:
        """Optimizer steps of a training, if it does not stop early."""
        return steps_in(self.recipe.training, len(self.rows.train))[0]

    @property
    def evaluated(self) -> Mapping[str, Pairs]:
        """The splits that are scored, or their parts."""
        return {split: self.parts.get(split, self.pairs[split]) for split in self.recipe.evaluated_splits}

    @property
    def typical_ids(self) -> list[int]:
        """Tokens of the first training prompts, one after another."""
        return [token for item in self.pairs["train"].rendered[:TYPICAL_PROMPTS] for token in item.prompt_ids]

    @property
    def evaluated_examples(self) -> list[Example]:
        """All evaluated examples, in the order of their predictions."""
        return [example for pairs in self.evaluated.values() for example, _ in pairs]

    def first_pairs(self, count: int) -> list[tuple[Example, Rendered]]:
        """The first `count` evaluated examples."""
        found: list[tuple[Example, Rendered]] = []
        for pairs in self.evaluated.values():
            found += pairs[: count - len(found)]
        return found

    def learning_rate(self, method: Method, settings: Mapping[str, Any] | None = None) -> float:
        """That of a trial's settings, or the recipe's for this method, the recipe's for all, or the method's own."""
        chosen = self._chosen(method, settings).get("learning_rate")
        rate = chosen or self.recipe.training.learning_rate or method.learning_rate
        assert rate is not None
        return float(rate)

    def settings(self, method: Method, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The recipe's settings of this method, those of a trial before them, without the learning rate."""
        chosen = self._chosen(method, settings)
        return {name: value for name, value in chosen.items() if name != "learning_rate"}

    def _chosen(self, method: Method, settings: Mapping[str, Any] | None) -> dict[str, Any]:
        return {**settings_of(self.recipe, method, self.head.name), **(settings or {})}

    def precision(self, method: Method, mergeability: Mergeability | None = None) -> Precision:
        """In what a method's model is trained, scored and shipped.

        Args:
            mergeability: of the model as it was attached; None for what is known before training.
        """
        known = mergeability or self.mergeability[self.name_of(method)]
        return precision_of(method, self.bits, isinstance(known, Mergeable), self.shipped_bits)


def prepare(
    recipe: Recipe,
    *,
    methods: Sequence[str] | None = None,
    model: str | None = None,
    bits: int,
    precision: str = "float32",
    limit: int | None = None,
    store: Store | None = None,
    recipe_sha256: str | None = None,
    day: date | None = None,
) -> Job:
    """Load the checkpoint's tokenizer and the data of a recipe, and check all that can be checked cheaply.

    Args:
        methods: other methods than the recipe's.
        model: another checkpoint than the recipe's.
        bits: how the frozen base is held.
        precision: in what what was trained is scored, merged and proven, one of `SHIPPED`.
        limit: at most so many examples of each split.
        store: where the prepared data go, or lie from an earlier part of the same run; None takes a temporary one.
        day: what chat templates are told that write the date; None for that on which they are asked.
        recipe_sha256: of the recipe's file; without it nothing that was prepared before is opened.

    Raises:
        UserError: anything the user has to mend.
    """
    recipe = completed(replace(recipe, methods=methods or recipe.methods, checkpoint=model or recipe.checkpoint))
    entries = entries_of(recipe)
    metrics = find_metrics(recipe.metrics)
    chosen = [entry for entry in entries if isinstance(entry, TunedEntry)]
    _require_known(recipe, chosen)
    _require_bits(bits, precision, chosen)

    base = _Base(recipe, bits, precision, chosen, day)
    data = prepare_data(recipe, base.renderer, limit, store, recipe_sha256)
    renderer = base.renderer(data.thinking)
    writing = [entry.name for entry in entries if not isinstance(entry, TunedEntry) or entry.head == LIKELIHOOD]
    _require_choices(recipe, renderer, data.pairs, writing)
    if unscored := require_metrics(recipe, metrics, data.pairs):
        logger.warning("metrics: %s: nothing that is evaluated has such a score", ", ".join(unscored))
    heads = heads_of(recipe, renderer, data, base.checkpoint.path)
    job = Job(
        recipe=recipe,
        checkpoint=base.checkpoint,
        entries=entries,
        metrics=metrics,
        bits=bits,
        shipped_in=precision,
        data=data,
        heads=heads,
        head=heads[recipe.heads[0]],
        mergeability={},
        fetching_seconds=base.fetching_seconds,
    )
    return replace(job, mergeability=_checked_methods(job))


def _require_known(recipe: Recipe, tuned: Sequence[TunedEntry]) -> None:
    """See that the recipe names what there is.

    Raises:
        UserError: an unknown method, setting or objective.
    """
    for name in (*recipe.settings, *recipe.search_space):
        method_and_head(name)
    for entry in tuned:
        search_space_of(recipe, entry)
    check_extra(recipe.training)
    find_objective(recipe.training.objective)


class _Base:
    """The checkpoint of a recipe and its tokenizer, fetched when they are first asked for.

    That is when the rows have been looked at: their mistakes are told before anything is downloaded.
    """

    def __init__(
        self, recipe: Recipe, bits: int, precision: str, tuned: Sequence[TunedEntry], day: date | None
    ) -> None:
        self.recipe, self.bits, self.precision, self.tuned, self.day = recipe, bits, precision, tuned, day
        self.renderers: dict[bool, Renderer] = {}
        self.fetching_seconds = 0.0

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """Its folder and terms.

        Raises:
            UserError: it can't be had, can't be held so, is larger than the memory, or can't read examples that are so
                long.
        """
        began = time.perf_counter()
        found = fetch_checkpoint(self.recipe.checkpoint)
        self.fetching_seconds = time.perf_counter() - began
        require_causal(found.path)
        require_weights(found.path, self.bits)
        require_sizes(found.path)
        require_memory(found.path, self.precision)
        require_context(self.recipe, found, self.tuned)
        return found

    def renderer(self, thinking: bool) -> Renderer:
        """Of its tokenizer, and prompts that let the model think aloud or don't."""
        if thinking not in self.renderers:
            self.renderers[thinking] = make_renderer(
                load_tokenizer(self.checkpoint.path), thinking, self.day, self.recipe.allow_control_tokens
            )
        return self.renderers[thinking]


def _require_bits(bits: int, precision: str, tuned: Sequence[TunedEntry]) -> None:
    """See that the base can be held and shipped so.

    Raises:
        UserError: it can't.
    """
    if precision not in SHIPPED:
        raise unknown("precision of a run", precision, SHIPPED)
    if bits not in BITS:
        raise UserError(f"{bits} bits: the base can be held at {', '.join(map(str, BITS))}")
    if bits < 16 and (whole := [entry.name for entry in tuned if entry.method.trains_base]):
        raise UserError(
            f"{', '.join(whole)} trains the base's own weights, which can't be held at {bits} bits: "
            "leave it out with --methods, or take --bits 16"
        )


def require_context(recipe: Recipe, checkpoint: Checkpoint, tuned: Sequence[TunedEntry]) -> None:
    """See that the model can read prompts, answers and virtual tokens at once.

    Raises:
        UserError: it can't.
    """
    most, virtual = context_length(checkpoint.path), _virtual_tokens(recipe, tuned)
    if most is not None and recipe.max_tokens + recipe.max_new_tokens + virtual > most:
        raise UserError(
            f"max_tokens {recipe.max_tokens}, max_new_tokens {recipe.max_new_tokens} and {virtual} virtual tokens are "
            f"more than the {most} tokens that {recipe.checkpoint} can read"
        )


def _virtual_tokens(recipe: Recipe, tuned: Sequence[TunedEntry]) -> int:
    """The most that a method puts in front of a prompt."""
    settings = ({**e.method.settings, **settings_of(recipe, e.method, e.head)} for e in tuned)
    return max(int(some.get("num_virtual_tokens", 0)) for some in settings)


def _require_choices(recipe: Recipe, renderer: Renderer, pairs: Mapping[str, Pairs], of_one: Sequence[str]) -> None:
    """See that likelihoods of choices can be calibrated, and that a choice is the same tokens behind every prompt.

    Args:
        of_one: names of the entries that tell how likely each choice is as the only one.

    Raises:
        UserError: validation has no examples of a task that is asked for, or the chat template writes a choice
            otherwise behind some prompt; or an example has several right choices, and an entry can't have them.
    """
    scored = ["validation", *recipe.evaluated_splits]
    tasks = {split: {e.task for e, _ in pairs[split] if e.choices} for split in scored}
    asked = set().union(*(tasks[split] for split in recipe.evaluated_splits))
    if missing := asked - tasks["validation"]:
        raise UserError(
            f"validation has no examples with choices of {', '.join(map(repr, sorted(missing)))}, by which their "
            "likelihoods are calibrated"
        )
    known: dict[str, list[int]] = {}
    for split in scored:
        for example, rendered in pairs[split]:
            if not example.choices:
                continue
            if example.labels is not None and of_one:
                raise UserError(
                    f"{example.id} may have several right choices at once, which only a head of classes learns: leave "
                    f"{', '.join(of_one)} out, and take head='classes'"
                )
            if example.completion not in known:
                known |= renderer.completions([example.completion])
            if rendered.completion_ids != known[example.completion]:
                raise UserError(
                    f"{example.id}: the chat template writes the choice {example.completion!r} in other tokens behind "
                    "this prompt than behind another"
                )


def _checked_methods(job: Job) -> dict[str, Mergeability]:
    """Find what is wrong with a method now, and not when its turn comes after hours of others.

    Returns:
        Name of the entry -> whether it can become a merged checkpoint.

    Raises:
        UserError: settings that a method does not know, or a model that it can't be used with.
    """
    problems: list[str] = []
    found: dict[str, Mergeability] = {}
    for entry in job.tuned:
        method, view = entry.method, job.of(entry)
        found[entry.name] = method.mergeability()
        if view.settings(method) or method.unsupported or method.merge_obstacle:
            try:
                found[entry.name] = check_attachment(
                    job.checkpoint.path, method, view.settings(method), job.typical_ids, view.steps, view.head.labels
                )
            except UserError as error:
                problems += [str(error)] * (str(error) not in problems)  # the same of another head
            except (MethodError, RuntimeError, AttributeError, OSError) as error:
                # What needs weights or more data is seen when the method's turn comes.
                logger.debug("%s can't be attached without weights: %s", entry.name, error)
        mergeability = found[entry.name]
        if method.trains and isinstance(mergeability, NotMergeable):
            logger.info("%s ships as an adapter only: %s", entry.name, mergeability.reason)
    if problems:
        raise collected("methods", problems)
    return found
