"""What an option may hold, said once where the option is declared: `steps: Annotated[int, at_least(1)] = 400`."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable
from functools import cache
from typing import Any

from onnxprune.errors import OptionError

_INTERVAL = re.compile(r"([\[(])(-?[0-9.]+), (-?[0-9.]+)([\])])")


@dataclasses.dataclass(frozen=True)
class Range:
    """Values that an option takes.

    Attributes:
        words: what stands behind "must be".
        holds: whether a value is among them.
    """

    words: str
    holds: Callable[[Any], bool]


def at_least(least: float, unit: str = "") -> Range:
    """Finite numbers from `least` on."""
    return Range(f"at least {least:g} {unit}".rstrip(), lambda value: least <= value < math.inf)


def above(bound: float) -> Range:
    """Finite numbers above `bound`."""
    return Range(f"above {bound:g}", lambda value: bound < value < math.inf)


def within(interval: str, what: str = "") -> Range:
    """Numbers in an interval such as `[0, 1)`, a round bracket leaving its end out; `what`: what such a number is."""
    found = _INTERVAL.fullmatch(interval)
    if found is None:
        raise TypeError(f"an interval reads [0, 1), got {interval!r}")
    left, low, high, right = found[1], float(found[2]), float(found[3]), found[4]

    def holds(value: float) -> bool:
        return (low <= value if left == "[" else low < value) and (value <= high if right == "]" else value < high)

    return Range(f"{what} in {interval}".lstrip(), holds)


def share_or_count(interval: str, least: int) -> Range:
    """Shares in an interval as floats, counts from `least` on as whole numbers."""
    share = within(interval, "a share")
    return Range(
        f"{share.words} or a count from {least}",
        lambda value: value >= least if isinstance(value, int) else share.holds(value),
    )


def check_ranges(options: Any, who: str) -> None:
    """Check a dataclass of options against what its fields' types declare.

    A field that is `Annotated` with a `Range` must hold a number of it, one that is a `Literal` a value of it. None is
    left to the type.

    Raises:
        OptionError: the first that does not; `who` begins the message.
    """
    for name, allowed in _declared(options.__class__):
        value = getattr(options, name)
        if value is not None and not allowed.holds(value):
            came = repr(value) if isinstance(value, str) else str(value)
            raise OptionError(f"{who}: {name} must be {allowed.words}, got {came}.")


@cache
def _declared(kind: type[Any]) -> tuple[tuple[str, Range], ...]:
    hints = typing.get_type_hints(kind, include_extras=True)
    found = ((field.name, _range_of(hints[field.name])) for field in dataclasses.fields(kind))
    return tuple((name, allowed) for name, allowed in found if allowed is not None)


def _range_of(hint: Any) -> Range | None:
    """What a type declares, None where it is nothing."""
    for extra in getattr(hint, "__metadata__", ()):
        if isinstance(extra, Range):
            return extra
    several = typing.get_origin(hint) in {typing.Union, types.UnionType}
    members = [one for one in (typing.get_args(hint) if several else (hint,)) if one is not type(None)]
    if any(typing.get_origin(one) is not typing.Literal for one in members):
        return None
    choices = [choice for one in members for choice in typing.get_args(one)]
    return Range(f"one of {', '.join(map(str, choices))}", choices.__contains__)
