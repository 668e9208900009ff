"""Every two entries beside each other, as a square."""

from dataclasses import dataclass

from workbench.compare.paired import LUCK
from workbench.compare.tables import difference_text
from workbench.results import Results

BETTER, WORSE, LUCKY, SAME = "better", "worse", "luck", "same"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The entry of the row beside that of the column.

    Attributes:
        text: the score of the row less that of the column; empty for an entry beside itself.
        kind: whether the row is better or worse by more than luck explains, or it may be luck.
        p: adjusted for the number of pairs, as text.
    """

    text: str
    kind: str
    p: str = ""


def matrix(results: Results) -> list[tuple[str, list[Cell]]]:
    """A row of cells for each entry that is compared, in the order of the table; empty where there are two alone.

    Two entries have one difference, which the list of pairs tells.
    """
    pairs = {(pair.a, pair.b): pair for pair in results.comparisons}
    compared = {name for pair in pairs for name in pair}
    names = [name for name in dict.fromkeys(run.method for run in results.runs) if name in compared]
    if len(names) < 3:
        return []
    higher = results.metrics[results.headline].higher_is_better

    def cell(row: str, column: str) -> Cell:
        if row == column:
            return Cell(text="", kind=SAME)
        pair = pairs.get((row, column)) or pairs[column, row]
        difference = pair.difference if pair.b == row else 0.0 - pair.difference  # no negative zero
        kind = LUCKY if pair.p_adjusted > LUCK else BETTER if (difference > 0) == higher else WORSE
        return Cell(text=difference_text(results, difference), kind=kind, p=f"{pair.p_adjusted:.3f}")

    return [(row, [cell(row, column) for column in names]) for row in names]
