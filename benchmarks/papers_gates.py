"""Rows of the methods that learn gates or distil: flop, head-gates, minitron, peer-distillation, ziplm."""

from benchmarks.papers_row import Row

ROWS: tuple[Row, ...] = ()
