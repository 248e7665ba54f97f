"""Rows of the methods that learn masks: gradual-magnitude, cap, mask-only."""

from benchmarks.papers_row import Figures, Row, lower


def _gradual_magnitude(seed: int) -> Figures:
    from benchmarks.masks_language import large_sparse_and_small_dense

    return large_sparse_and_small_dense(seed)


_GRADUAL_MAGNITUDE = Row(
    system=1,
    name="gradual-magnitude",
    paper="Zhu and Gupta 2017, To Prune, or Not to Prune",
    headline="Large sparse models beat small dense ones of as many non-zero numbers",
    source="abstract",
    checks=(
        lower(
            "large-sparse",
            "small-dense",
            "a large sparse model beats a small dense one of as many non-zero numbers",
            "perplexity",
        ),
    ),
    run=_gradual_magnitude,
    remarks="""Language models trained from scratch on the text of `fixtures/gloss-gpt` for 300 steps of 16 blocks of 64
tokens: 3 layers of width 64 whose matrices become sparse along the cubic schedule, and 3 dense layers of width 32; as
many non-zero numbers in all, embeddings counted. The small model's learning rate is the better of 3e-3 and 6e-3 on the
held-out text itself, the large one has 3e-3.""",
)

ROWS: tuple[Row, ...] = (_GRADUAL_MAGNITUDE,)
