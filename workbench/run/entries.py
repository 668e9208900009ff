"""What stands in the table: tuned methods, baselines, rerankers."""

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.errors import UserError, unknown
from workbench.evaluation.baselines import Baseline
from workbench.methods import Method, find_method
from workbench.recipe import Recipe


@dataclass(frozen=True)
class TunedEntry:
    """The checkpoint, tuned by a method; `untuned` among them."""

    method: Method

    @property
    def name(self) -> str:
        """As the table has it."""
        return self.method.name


@dataclass(frozen=True)
class BaselineEntry:
    """What is cheap and no language model."""

    name: str
    function: Baseline


@dataclass(frozen=True)
class RerankerEntry:
    """The choices of another entry, ranked anew together with the recipe's features."""

    reranked: TunedEntry

    @property
    def name(self) -> str:
        """As the table has it."""
        return f"ranker-{self.reranked.name}"


Entry = TunedEntry | BaselineEntry | RerankerEntry


def entries_of(recipe: Recipe) -> list[Entry]:
    """Everything that a recipe compares, in the order of the table.

    Raises:
        UserError: an unknown method, or two entries of one name.
    """
    entries: list[Entry] = [BaselineEntry(name, function) for name, function in recipe.baselines.items()]
    for name in dict.fromkeys(recipe.methods):
        tuned = TunedEntry(find_method(name))
        entries.append(tuned)
        if recipe.features:
            entries.append(RerankerEntry(tuned))
    names = [entry.name for entry in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{', '.join(twice)} stands for two entries: name the baseline otherwise")
    return entries


def find_entry(entries: Sequence[Entry], name: str) -> Entry:
    """The entry called `name`.

    Raises:
        UserError: there is none.
    """
    for entry in entries:
        if entry.name == name:
            return entry
    raise unknown("entry", name, [entry.name for entry in entries])
