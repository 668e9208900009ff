"""Objectives by name. An objective is data: the rows it reads, the loss of a batch, and what that is a mean over.

To add one, put a module with a tuple `OBJECTIVES` in this folder; it is found by being there.
"""

import importlib
import pkgutil
from functools import cache

from workbench.errors import unknown
from workbench.training.objectives.objective import Objective

__all__ = ["Objective", "find_objective", "known_objectives"]


@cache
def known_objectives() -> dict[str, Objective]:
    """All objectives, by name, in the order of the modules of this folder."""
    modules = sorted(module.name for module in pkgutil.iter_modules(__path__))
    found = [o for name in modules for o in getattr(importlib.import_module(f"{__name__}.{name}"), "OBJECTIVES", ())]
    return {objective.name: objective for objective in found}


def find_objective(name: str) -> Objective:
    """The objective called `name`.

    Raises:
        UserError: there is none; the nearest names and all names are in the message.
    """
    objectives = known_objectives()
    if name not in objectives:
        raise unknown("objective", name, objectives)
    return objectives[name]
