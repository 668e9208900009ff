"""Among which settings of a method tuning looks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from workbench.errors import UserError

LEARNING_RATE = "learning_rate"


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers among which tuning looks for a setting, evenly on a logarithmic scale.

    Attributes:
        low, high: bounds, both included. What the setting is without tuning is among the numbers in any case.
        whole: only that, and what it is when doubled or halved.
        along: settings that keep their proportion to this one, such as `lora_alpha` to `r`.
    """

    low: float
    high: float
    whole: bool = False
    along: Sequence[str] = ()

    def around(self, usual: float) -> "Range":
        """The same with the number that the setting is without tuning among them."""
        low, high = min(self.low, usual), max(self.high, usual)
        if not self.whole:
            return replace(self, low=low, high=high)
        down, up = math.floor(math.log2(usual / low)), math.floor(math.log2(high / usual))
        while usual % 2**down:
            down -= 1  # of 24 there is no half of a half of a half of a half
        return replace(self, low=usual / 2**down, high=usual * 2**up)


def with_settings(
    settings: Mapping[str, Any], chosen: Mapping[str, float], space: Mapping[str, Range]
) -> dict[str, Any]:
    """Settings with those that tuning chose in their place, and what goes along with them.

    Args:
        settings: of the method, as they are without tuning.
        chosen: name -> number, of those in `space`.
    """
    found = {**settings, **chosen}
    for name, one in space.items():
        for other in one.along if name in chosen else ():
            if other in chosen:
                continue
            kept = settings[other] / settings[name] * chosen[name]
            found[other] = max(1, round(kept)) if isinstance(settings[other], int) else kept
    return found


def space_as_said(
    method: str, said: Mapping[str, Any], space: Mapping[str, Range], settings: Mapping[str, Any]
) -> dict[str, Range]:
    """The ranges that a recipe says, in place of a method's own.

    Args:
        method: its name.
        said: setting -> its bounds.
        space: the method's own.
        settings: that the method has.

    Raises:
        UserError: a setting that the method does not have, or that is 0, of which nothing is twice as much; or bounds
            that are none.
    """
    numbers = {name for name, value in settings.items() if type(value) in (int, float) and value > 0} | {LEARNING_RATE}
    found = {}
    for name, bounds in said.items():
        if name not in numbers:
            raise UserError(
                f"search_space of {method}: {name!r} is no number above 0; {', '.join(sorted(numbers))} can be tuned"
            )
        try:
            low, high = (float(bound) for bound in bounds)
        except (TypeError, ValueError):
            low, high = 0.0, 0.0
        if not 0 < low < high < math.inf:
            raise UserError(
                f"search_space of {method}: {name} must be two numbers above 0, the lower one first, as (1e-4, 1e-2), "
                f"not {bounds!r}"
            )
        own = space.get(name, Range(low=low, high=high, whole=isinstance(settings.get(name), int)))
        found[name] = replace(own, low=low, high=high)
    return found
