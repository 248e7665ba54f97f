"""What a long job says of itself: the stage at work, and where it can be known, how far that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

Progress = Callable[[str], None]


class Turn(str):
    """A stage by its name, told as it begins; whoever shows it can say how long the rest will take.

    Attributes:
        at: which of several like it this is, from 1; 0 where it stands alone.
        of: how many there are.
        seconds: it takes; 0 where nobody knows.
        kind: what all of them are, where others that come in between may be as many.
    """

    __slots__ = ("at", "kind", "of", "seconds")

    at: int
    of: int
    seconds: float
    kind: str

    def __new__(cls, name: str, at: int = 0, of: int = 0, *, seconds: float = 0.0, kind: str = "") -> Self:
        """The name, and how many there are where it is one of several and does not say so itself."""
        made = super().__new__(cls, f"{name} ({at} of {of})" if at and f"{at} of {of}" not in name else name)
        made.at, made.of, made.seconds, made.kind = at, of, seconds, kind
        return made
