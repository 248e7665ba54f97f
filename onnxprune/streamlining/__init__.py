"""Rewrites of graphs that say the same in fewer or faster operators, one module a rewrite."""

from __future__ import annotations

from types import MappingProxyType

from onnxprune.streamlining.attention import FUSED_ATTENTION
from onnxprune.streamlining.clips import CLIPS
from onnxprune.streamlining.duplicates import DUPLICATES
from onnxprune.streamlining.gains import GAINS
from onnxprune.streamlining.gemms import GEMMS
from onnxprune.streamlining.guards import NAN_GUARDS
from onnxprune.streamlining.movement import MOVEMENT
from onnxprune.streamlining.positions import POSITIONS
from onnxprune.streamlining.rewrite import Done, Rewrite, Wish
from onnxprune.streamlining.scales import SCALES
from onnxprune.streamlining.sizes import SIZES
from onnxprune.streamlining.spreads import SPREADS
from onnxprune.streamlining.steps import FIXED_STEPS
from onnxprune.streamlining.tables import TABLES
from onnxprune.streamlining.targets import SHAPES

# In the order in which they are carried out: what one leaves, the next may find.
REWRITES: tuple[Rewrite, ...] = (
    SHAPES,
    SIZES,
    DUPLICATES,
    POSITIONS,
    SPREADS,
    FUSED_ATTENTION,
    NAN_GUARDS,
    SCALES,
    GAINS,
    TABLES,
    CLIPS,
    GEMMS,
    MOVEMENT,
    FIXED_STEPS,
)
BY_NAME = MappingProxyType({rewrite.name: rewrite for rewrite in REWRITES})

__all__ = ["BY_NAME", "REWRITES", "Done", "Rewrite", "Wish"]
