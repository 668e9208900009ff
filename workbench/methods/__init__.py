"""Methods by name. A method is data: how it attaches, its learning rate, how it becomes a plain checkpoint.

To add one, put a module with a tuple `METHODS` in this folder; it is found by being there.
"""

import importlib
import pkgutil
from functools import cache

from workbench.errors import unknown
from workbench.methods.method import Attachment, Driver, Method

__all__ = ["Attachment", "Driver", "Method", "find_method", "known_methods"]


@cache
def known_methods() -> dict[str, Method]:
    """All methods, by name, in the order of the modules of this folder."""
    modules = sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)
    found = [m for name in modules for m in getattr(importlib.import_module(f"{__name__}.{name}"), "METHODS", ())]
    return {method.name: method for method in found}


def find_method(name: str) -> Method:
    """The method called `name`.

    Raises:
        UserError: there is none; the nearest names and all names are in the message.
    """
    methods = known_methods()
    if name not in methods:
        raise unknown("method", name, methods)
    return methods[name]
