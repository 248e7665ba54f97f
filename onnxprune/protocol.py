"""What a pass is, and what it is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from onnxprune.calibration import Needs, Statistics
from onnxprune.model import Model
from onnxprune.plan import Change, Edit, Skip
from onnxprune.sites import Site

__all__ = ["Context", "Needs", "Pass", "Proposal"]


@dataclass(frozen=True, kw_only=True)
class Context:
    """What `propose` may look at besides the model.

    Attributes:
        statistics: of the tensors that the pass needed; None where there are no sample inputs.
        seed: of every random choice.
    """

    statistics: Statistics | None = None
    seed: int = 0


@dataclass(frozen=True)
class Proposal:
    """Edits that a pass wants made, and the sites that it leaves alone with the reason."""

    edits: tuple[Edit, ...] = ()
    skips: tuple[Skip, ...] = field(default=())


class Pass(Protocol):
    """A frozen dataclass of options that edits graphs. `apply` depends on the edits alone, never on the options."""

    name: ClassVar[str]
    lossless: ClassVar[bool]

    def needs(self, model: Model, sites: Sequence[Site]) -> Needs:
        """The statistics that `propose` wants; collected only where there are sample inputs."""
        ...

    def propose(self, model: Model, sites: Sequence[Site], context: Context) -> Proposal:
        """Edits in the order in which they are to be applied. Solves everything; edits nothing."""
        ...

    def apply(self, model: Model, edits: Sequence[Edit]) -> tuple[Model, tuple[Change, ...]]:
        """A new model with the edits carried out, and one change an edit.

        Raises:
            Declined: an edit does not fit the model.
        """
        ...
