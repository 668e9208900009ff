"""Methods by name. A method is data: how it attaches, its learning rate, how it becomes a plain checkpoint.

To add one, put a module with a tuple `METHODS` in this folder; it is found by being there. Another package adds its own
by an entry point of the group `workbench.methods`, see `workbench.plugins`.
"""

from functools import cache

from workbench.errors import unknown
from workbench.methods.method import Attachment, Driver, Mergeability, Mergeable, Method, NotMergeable
from workbench.plugins import registered

__all__ = [
    "Attachment",
    "Driver",
    "Mergeability",
    "Mergeable",
    "Method",
    "NotMergeable",
    "find_method",
    "known_methods",
]


@cache
def known_methods() -> dict[str, Method]:
    """All methods, by name, in the order of the modules of this folder; those of other packages behind them.

    Raises:
        UserError: another package's method can't be loaded, or has a name that is taken.
    """
    return registered(__name__, __path__, "METHODS", Method, "workbench.methods")


def find_method(name: str) -> Method:
    """The method called `name`.

    Raises:
        UserError: there is none; the nearest names and all names are in the message.
    """
    methods = known_methods()
    if name not in methods:
        raise unknown("method", name, methods)
    return methods[name]
