"""Rewrites of graphs that say the same in fewer or faster operators, one module a rewrite."""

from __future__ import annotations

from types import MappingProxyType

from onnxprune.streamlining.guards import NAN_GUARDS
from onnxprune.streamlining.rewrite import Done, Rewrite, Wish

# In the order in which they are carried out: what one leaves, the next may find.
REWRITES: tuple[Rewrite, ...] = (NAN_GUARDS,)
BY_NAME = MappingProxyType({rewrite.name: rewrite for rewrite in REWRITES})

__all__ = ["BY_NAME", "REWRITES", "Done", "Rewrite", "Wish"]
