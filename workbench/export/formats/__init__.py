"""Formats of exports by name. A format is data: what writes it, and the software that reads it back.

To add one, put a module with a tuple `FORMATS` in this folder; it is found by being there. Another package adds its own
by an entry point of the group `workbench.formats`, see `workbench.plugins`.
"""

from functools import cache

from workbench.errors import unknown
from workbench.export.formats.format import Continued, Format, Runtime, Sources
from workbench.plugins import registered

__all__ = ["Continued", "Format", "Runtime", "Sources", "find_format", "known_formats"]


@cache
def known_formats() -> dict[str, Format]:
    """All formats by name; those of other packages behind them.

    Raises:
        UserError: another package's format can't be loaded, or has a name that is taken.
    """
    return registered(__name__, __path__, "FORMATS", Format, "workbench.formats")


def find_format(name: str) -> Format:
    """The format called `name`.

    Raises:
        UserError: there is none; the nearest names and all names are in the message.
    """
    formats = known_formats()
    if name not in formats:
        raise unknown("format", name, formats)
    return formats[name]
