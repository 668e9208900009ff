"""Methods, metrics and objectives by being there: in a folder of this package, or by an entry point of another one."""

import importlib
import pkgutil
from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import Any, TypeVar

from workbench.errors import UserError

T = TypeVar("T")


def registered(package: str, path: Iterable[str], attribute: str, kind: type[T], group: str) -> dict[str, T]:
    """All of a kind by name: those of the modules in a folder, in the modules' order, those of other packages behind.

    Args:
        package: name of the package whose folder it is.
        path: its `__path__`.
        attribute: of a module, a tuple with those that it brings, such as `METHODS`; modules without one are none.
        kind: of which they are; each has a `name`.
        group: of other packages' entry points.

    Raises:
        UserError: as `from_entry_points`.
    """
    names = sorted(module.name for module in pkgutil.iter_modules(path) if not module.ispkg)
    modules = (importlib.import_module(f"{package}.{name}") for name in names)
    own: dict[str, T] = {one.name: one for module in modules for one in getattr(module, attribute, ())}
    return own | from_entry_points(group, kind, own)


def from_entry_points(group: str, kind: type[T], known: dict[str, T]) -> dict[str, T]:
    """What installed packages add to a group, by name.

    A package says so in its pyproject.toml, where the object is one of `kind` or a sequence of them:

        [project.entry-points."workbench.methods"]
        bitfit = "my_package.bitfit:METHODS"

    Args:
        group: "workbench.methods", "workbench.metrics", "workbench.objectives" or "workbench.trackers".
        known: what is there already, by name.

    Raises:
        UserError: an entry point can't be loaded, is something else, or has a name that is taken.
    """
    found: dict[str, T] = {}
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        whose = f"the entry point {point.name!r} ({group}) of the package {point.dist.name if point.dist else '?'}"
        try:
            loaded: Any = point.load()
        except Exception as error:  # whatever another package raises, its name is what the user needs
            raise UserError(f"{whose} can't be loaded: {type(error).__name__}: {error}; mend or remove it") from error
        for one in (loaded,) if isinstance(loaded, kind) else tuple(loaded):
            if not isinstance(one, kind):
                raise UserError(f"{whose} is no {kind.__name__} and no sequence of them; mend or remove the package")
            name: str = one.name  # type: ignore[attr-defined]
            if name in known or name in found:
                raise UserError(
                    f"{whose} brings {name!r}, a name that is taken: rename it there, or remove the package"
                )
            found[name] = one
    return found
