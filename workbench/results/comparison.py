"""Entries beside each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workbench.results.records import Score


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two entries beside each other on the same examples: the score of `b` minus that of `a`.

    Attributes:
        a, b: the entries.
        metric, split: by which score they are compared.
        difference: of the score of `b` to that of `a`, with all seeds of both.
        low, high: its 95 % interval.
        p: two-sided p-value, see `workbench.compare.paired`.
        p_adjusted: for the number of pairs, by Holm's method.
        items: independent examples that both are scored on; turns of one conversation are one. None in older files.
        seeds: of the one that has more of them. Where it is above 1, interval and p-value cover the choice of the
            seeds, too.
        detectable: the smallest difference that 80 of 100 such comparisons would tell from luck; None where none is.
        items_to_tell, seeds_to_tell: where it may be luck, of how many examples and seeds together 80 of 100
            comparisons would tell a difference as large as this one; None where no numbers would that can be had. Of
            examples alone, where there is one seed.
    """

    a: str
    b: str
    metric: str
    split: str
    difference: float
    low: float
    high: float
    p: float
    p_adjusted: float
    items: int | None = None
    seeds: int = 1
    detectable: float | None = None
    items_to_tell: int | None = None
    seeds_to_tell: int | None = None


@dataclass(frozen=True, kw_only=True)
class SeedsRecord:
    """An entry with all its seeds: the mean of each score, whose interval covers the choice of examples and seeds.

    Attributes:
        method: the entry's name.
        seeds: with which it was carried to its end; one where no seed changes it, such as the untuned checkpoint.
        metrics: label -> score, as in `RunRecord`.
    """

    method: str
    seeds: Sequence[int]
    metrics: Mapping[str, Score]
