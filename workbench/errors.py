"""What can go wrong, told apart by who has to act."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can mend. Entry points print it in one line and exit with 2."""


class MethodError(Exception):
    """A method that could not be carried to its end. Recorded with its reason; the other methods go on."""


def unknown(kind: str, value: str, allowed: Iterable[str]) -> UserError:
    """The error for a name that is none of `allowed`: the nearest ones first, then all of them."""
    names = sorted(allowed)
    near = difflib.get_close_matches(value, names, n=2, cutoff=0.5)
    guess = f"; did you mean {' or '.join(near)}?" if near else ";"
    return UserError(f"unknown {kind} {value!r}{guess} known: {', '.join(names)}")


def collected(what: str, problems: list[str], most: int = 20) -> UserError:
    """One error for all `problems`, of which the first `most` are listed."""
    if len(problems) == 1:
        return UserError(f"{what}: {problems[0]}")
    shown = "\n  ".join(problems[:most])
    rest = f"\n  ... and {len(problems) - most} more" if len(problems) > most else ""
    return UserError(f"{what}: {len(problems)} problems\n  {shown}{rest}")
