"""Cut hidden units between two linears."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnxprune.removal import Removal
from onnxprune.sites import Kind


@dataclass(frozen=True, kw_only=True)
class RemoveNeurons(Removal):
    """Cut hidden units of feed-forwards, gated ones with their gates."""

    name: ClassVar[str] = "remove-neurons"
    kind: ClassVar[Kind] = "neurons"
