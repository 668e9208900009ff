"""Adapt GPT-style language models with parameter-efficient methods, compare them, ship the result.

Importing this package is cheap: everything heavy is imported where it is used.
"""

from workbench.recipe import Monitoring, Recipe, Training
from workbench.version import __version__

__all__ = ["Monitoring", "Recipe", "Training", "__version__"]
