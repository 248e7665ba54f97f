"""What a rewrite is: a way to say the same in fewer or faster operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxprune.calibration import Needs
from onnxprune.model import Model
from onnxprune.protocol import Context

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Wish:
    """What a rewrite needs besides the graph, as an edit keeps it.

    Attributes:
        args: JSON values.
        tensors: by short name.
    """

    args: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """What a rewrite did to a graph.

    Attributes:
        places: that it rewrote.
        kept: places that it left alone: a tensor's name, and the true reason.
        note: what was taken for granted, or by how much outputs may move; for the report.
    """

    places: int = 0
    kept: tuple[tuple[str, str], ...] = ()
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Rewrite:
    """One way of rewriting, wherever in a graph it fits.

    Attributes:
        name: as options and plans write it.
        what: a place that was rewritten, in words: one, and several.
        carry_out: edits a model's graph in place. It depends on the model and the wish alone, finds its places anew
            each time, and finds none where it has been before.
        wish: what `carry_out` needs from statistics or the target; None where the rewrite does not apply. By default
            nothing.
        rival: whether operators take the place of others, so that it stands only where the clock says that it is
            faster. What only takes work away stands unless the clock says that all of it together is slower.
        opset: that its operators need; models of a lower one are raised to it.
        domain: of its operators, where they are a runtime's own.
        needs: statistics that `wish` looks at.
        may_lose: of fidelity, where outputs move by more than rounding; 0: they do not.
        fewer: a wish for fewer of the same places, of a rewrite that loses too much; None for less than that.
    """

    name: str
    what: tuple[str, str]
    carry_out: Callable[[Model, Wish], Done]
    wish: Callable[[Model, Context], Wish | None] = lambda _model, _context: Wish()
    rival: bool = False
    opset: int = 0
    domain: str = ""
    needs: Callable[[Model], Needs] = lambda _model: Needs()
    may_lose: float = 0.0
    fewer: Callable[[Wish], Wish | None] = lambda _wish: None

    def told(self, done: Done) -> str:
        """What was done, for the report."""
        text = f"{done.places} {self.what[0] if done.places == 1 else self.what[1]}"
        return f"{text} ({done.note})" if done.note else text
