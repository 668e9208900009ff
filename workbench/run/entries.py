"""What stands in the table: tuned methods, baselines, rerankers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workbench.errors import UserError, unknown
from workbench.evaluation.baselines import Baseline
from workbench.methods import Method, method_and_head
from workbench.methods.space import Range, space_as_said
from workbench.recipe import LIKELIHOOD, Recipe


@dataclass(frozen=True)
class TunedEntry:
    """The checkpoint, tuned by a method; `untuned` among them.

    Attributes:
        head: what it is trained to choose by, see `Recipe`.
        name: as the table has it: the method's, or `<method>-<head>` of a further head.
    """

    method: Method
    head: str
    name: str

    @property
    def fixed(self) -> bool:
        """Whether no seed changes it."""
        return not self.method.trains


@dataclass(frozen=True)
class BaselineEntry:
    """What is cheap and no language model."""

    name: str
    function: Baseline

    @property
    def fixed(self) -> bool:
        """Whether no seed changes it: a baseline is given none."""
        return True


@dataclass(frozen=True)
class RerankerEntry:
    """The choices of another entry, ranked anew together with the recipe's features."""

    reranked: TunedEntry

    @property
    def name(self) -> str:
        """As the table has it."""
        return f"ranker-{self.reranked.name}"

    @property
    def fixed(self) -> bool:
        """Whether no seed changes it."""
        return self.reranked.fixed


Entry = TunedEntry | BaselineEntry | RerankerEntry


def entries_of(recipe: Recipe) -> list[Entry]:
    """Everything that a recipe compares, in the order of the table.

    Raises:
        UserError: an unknown method, or two entries of one name.
    """
    entries: list[Entry] = [BaselineEntry(name, function) for name, function in recipe.baselines.items()]
    tuned = {entry.name: entry for name in recipe.methods for entry in tuned_entries(recipe, name)}
    for entry in tuned.values():
        entries.append(entry)
        if recipe.features:
            entries.append(RerankerEntry(entry))
    names = [entry.name for entry in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{', '.join(twice)} stands for two entries: name the baseline otherwise")
    return entries


def tuned_entries(recipe: Recipe, name: str) -> list[TunedEntry]:
    """What a name of `--methods` stands for: a method with every head of the recipe, or with the one that it says.

    A method that trains nothing has no head that was trained: it chooses by likelihood.

    Raises:
        UserError: an unknown method, or a head that the recipe doesn't have.
    """
    method, said = method_and_head(name)
    if said is not None and (said not in recipe.heads or not method.trains):
        why = f"the recipe's head is {' and '.join(recipe.heads)}" if method.trains else "it trains no head"
        raise UserError(f"{name}: {why}; take {method.name}")
    heads = (said,) if said else recipe.heads if method.trains else (LIKELIHOOD,)
    further = len(recipe.heads) > 1
    return [
        TunedEntry(method, head, f"{method.name}-{head}" if further and head != LIKELIHOOD else method.name)
        for head in heads
    ]


def settings_of(recipe: Recipe, method: Method, head: str) -> dict[str, Any]:
    """The recipe's settings of a method, those that it has for this head alone before the others."""
    return {**recipe.settings.get(method.name, {}), **recipe.settings.get(f"{method.name}-{head}", {})}


def search_space_of(recipe: Recipe, entry: TunedEntry) -> dict[str, Range]:
    """Setting -> the range in which tuning looks for it: the recipe's, or the method's own.

    Raises:
        UserError: the recipe names what can't be looked for.
    """
    method = entry.method
    said = recipe.search_space.get(f"{method.name}-{entry.head}", recipe.search_space.get(method.name))
    if said is None:
        return dict(method.search_space)
    settings = {**method.settings, **settings_of(recipe, method, entry.head)}
    return space_as_said(method.name, said, method.search_space, settings)


def find_entry(entries: Sequence[Entry], name: str) -> Entry:
    """The entry called `name`.

    Raises:
        UserError: there is none.
    """
    for entry in entries:
        if entry.name == name:
            return entry
    raise unknown("entry", name, [entry.name for entry in entries])
