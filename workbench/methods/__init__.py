"""Methods by name. A method is data: how it attaches, its learning rate, how it becomes a plain checkpoint.

To add one, put a module with a tuple `METHODS` in this folder; it is found by being there. Another package adds its own
by an entry point of the group `workbench.methods`, see `workbench.plugins`.
"""

from functools import cache

from workbench.errors import unknown
from workbench.methods.method import Attachment, Driver, Mergeability, Mergeable, Method, NotMergeable
from workbench.plugins import registered
from workbench.recipe import HEADS

__all__ = [
    "Attachment",
    "Driver",
    "Mergeability",
    "Mergeable",
    "Method",
    "NotMergeable",
    "find_method",
    "known_methods",
    "method_and_head",
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


def method_and_head(name: str) -> tuple[Method, str | None]:
    """The method that users mean by a name such as `lora` or `lora-classes`, and the head, if the name says one.

    Raises:
        UserError: there is no such method; the nearest names and all names are in the message.
    """
    method, _, head = name.rpartition("-")
    if name not in known_methods() and head in HEADS and method in known_methods():
        return find_method(method), head
    return find_method(name), None
