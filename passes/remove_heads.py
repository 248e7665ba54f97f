"""Cut attention heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnxprune.removal import Removal
from onnxprune.sites import Kind


@dataclass(frozen=True, kw_only=True)
class RemoveHeads(Removal):
    """Cut attention heads; with grouped queries a unit is a key-value head with all its queries.

    Attributes:
        cut_interface: also cut heads of key-value caches that are inputs and outputs; callers then pass smaller ones.
    """

    name: ClassVar[str] = "remove-heads"
    kind: ClassVar[Kind] = "heads"
    cut_interface: bool = False
