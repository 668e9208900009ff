"""Adapt GPT-style language models with parameter-efficient methods, compare them, ship the result.

Importing this package is cheap: everything heavy is imported when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from workbench.console import private_libraries
from workbench.errors import UserError
from workbench.recipe import Monitoring, Recipe, Training
from workbench.sources.readers import DataFile
from workbench.version import __version__

if TYPE_CHECKING:
    from workbench.data import Example, choice, conversation
    from workbench.generation.sampling import Sampling
    from workbench.run.api import Run, compare_runs, load_run, run_recipe
    from workbench.run.tuned import TunedModel

__all__ = [
    "DataFile",
    "Example",
    "Monitoring",
    "Recipe",
    "Run",
    "Sampling",
    "Training",
    "TunedModel",
    "UserError",
    "__version__",
    "choice",
    "compare_runs",
    "conversation",
    "load_run",
    "run_recipe",
]

private_libraries()

# Name -> the module it is imported from when it is first asked for.
_LATER = {
    "Example": "workbench.data",
    "choice": "workbench.data",
    "conversation": "workbench.data",
    "Sampling": "workbench.generation.sampling",
    "Run": "workbench.run.api",
    "compare_runs": "workbench.run.api",
    "load_run": "workbench.run.api",
    "run_recipe": "workbench.run.api",
    "TunedModel": "workbench.run.tuned",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'workbench' has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
