"""Objectives by name. An objective is data: the rows it reads, the loss of a batch, and what that is a mean over.

To add one, put a module with a tuple `OBJECTIVES` in this folder; it is found by being there. Another package adds its
own by an entry point of the group `workbench.objectives`, see `workbench.plugins`.
"""

from functools import cache

from workbench.errors import unknown
from workbench.plugins import registered
from workbench.training.objectives.objective import Objective

__all__ = ["Objective", "find_objective", "known_objectives"]


@cache
def known_objectives() -> dict[str, Objective]:
    """All objectives, by name, in the order of the modules of this folder; those of other packages behind them.

    Raises:
        UserError: another package's objective can't be loaded, or has a name that is taken.
    """
    return registered(__name__, __path__, "OBJECTIVES", Objective, "workbench.objectives")


def find_objective(name: str) -> Objective:
    """The objective called `name`.

    Raises:
        UserError: there is none; the nearest names and all names are in the message.
    """
    objectives = known_objectives()
    if name not in objectives:
        raise unknown("objective", name, objectives)
    return objectives[name]
