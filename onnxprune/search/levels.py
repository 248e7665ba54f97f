"""What may become of one place, and one such level for every place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from onnxprune.errors import PlanError


@dataclass(frozen=True, kw_only=True)
class Level:
    """One form of one place. What is None is as it was.

    Attributes:
        units: how many heads, neurons or channels stay; 0: the block that holds them goes.
        rank: of the pairs that take the place of its linears.
        bits: of its weights: 8 as `sparse-int8` stores and multiplies them, or what other passes offer.
        sparsity: share of zeros among its weights.
    """

    units: int | None = None
    rank: int | None = None
    bits: int | None = None
    sparsity: float | None = None

    def __str__(self) -> str:
        """`units=8,bits=8`; `as-is` where nothing changes."""
        held = [f"{field.name}={value:g}" for field in fields(self) if (value := getattr(self, field.name)) is not None]
        return ",".join(held) or "as-is"

    @classmethod
    def parse(cls, text: str) -> Level:
        """The inverse of `str`.

        Raises:
            PlanError: not a level.
        """
        if text == "as-is":
            return AS_IS
        try:
            pairs = dict(item.split("=") for item in text.split(","))
            numbers = {name: float(value) if name == "sparsity" else int(value) for name, value in pairs.items()}
            return cls(**numbers)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise PlanError(f"Not a level: {text!r}. Clear the cache or make the plan again.") from error


AS_IS = Level()

# A level for every place, by the place's id.
Choice = Mapping[str, Level]


def choice_to_json(choice: Choice) -> dict[str, str]:
    """Levels as text."""
    return {name: str(level) for name, level in choice.items()}


def choice_from_json(held: Mapping[str, str]) -> dict[str, Level]:
    """The inverse of `choice_to_json`."""
    return {str(name): Level.parse(str(text)) for name, text in held.items()}
