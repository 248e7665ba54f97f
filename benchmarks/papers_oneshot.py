"""Rows of the methods that cut once: wanda, shortened-llama, laco, llm-pruner; and ngram."""

from benchmarks.papers_row import Row

ROWS: tuple[Row, ...] = ()
