"""Cut channels between convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnxprune.removal import Removal
from onnxprune.sites import Kind


@dataclass(frozen=True, kw_only=True)
class RemoveChannels(Removal):
    """Cut channels of convolutions, through norms, residual additions and depthwise convolutions."""

    name: ClassVar[str] = "remove-channels"
    kind: ClassVar[Kind] = "channels"
