"""Rows of the methods that learn masks: gradual-magnitude, cap, mask-only."""

from benchmarks.papers_row import Row

ROWS: tuple[Row, ...] = ()
