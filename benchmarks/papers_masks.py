"""Rows of the methods that learn masks: gradual-magnitude, cap, mask-only."""

from benchmarks.papers_row import Figures, Row, at_most, higher, lower, not_worse


def _gradual_magnitude(seed: int) -> Figures:
    from benchmarks.masks_words import large_sparse_and_small_dense

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
            "a large model nine tenths of which are zero beats a small dense one of as many non-zero numbers",
            "% wrong",
        ),
    ),
    run=_gradual_magnitude,
    remarks="""Classifiers of WordNet's definitions (25 noun files; bags of 1024 tokens) trained from scratch for 800
steps of 64: 128 hidden units whose matrices become nine tenths zero along the cubic schedule, and a dense layer of as
many hidden units as have at least as many numbers. Each has the better of two learning rates on the held-out
definitions themselves.

Tried before, and not holding: language models of 3 layers trained from scratch for 300 steps, width 64 and 84 % zero
beside width 32 dense, perplexity 151.1 against 137.8 (one seed; `python -m benchmarks.masks_language 0`). Neither has
converged by then, and a short schedule costs the sparse one most.""",
)


def _cap(seed: int) -> Figures:
    from benchmarks.masks_cloze import contrast_beside_distillation

    return contrast_beside_distillation(seed)


_CAP = Row(
    system=4,
    name="cap",
    paper="Xu et al. 2022, From Dense to Sparse: Contrastive Pruning",
    headline="At 97 % sparsity 99.2 % (QQP) and 96.3 % (MNLI) of BERT's score",
    source="abstract",
    checks=(
        not_worse(
            "CAP", "movement and distillation", "with contrastive terms not worse than distillation alone", "% wrong"
        ),
    ),
    run=_cap,
    remarks="""The language model of `fixtures/gloss-gpt` is tuned for 200 steps on 3000 definitions to name
the noun file that a definition is from (25 classes, 1000 definitions held out), then pruned to a fifth of each
matrix but the head in 150 steps: by movement alone (the baseline of systems 4 and 13), by movement with
distillation from the tuned model, and by CAP over movement with the same distillation and the untuned fixture as
the pre-trained model. The contrastive loss and its banks are held to a hand count by `tests/learn/test_cap.py`. The
weight of the supervised terms is 1, not the paper's 10, which drowns the task on so little data.""",
)


def _mask_only(seed: int) -> Figures:
    from benchmarks.masks_cloze import masks_over_frozen_weights

    return masks_over_frozen_weights(seed)


_MASK_ONLY = Row(
    system=13,
    name="mask-only",
    paper="Jiang et al. 2023, Pruning Pre-trained Language Models Without Fine-Tuning",
    headline="BERT with half of its weights masked and none changed: MNLI 85.7, dense 84.5",
    source="code's README",
    checks=(
        at_most("weights that changed", 0, "the base's bytes are what they were"),
        higher(
            "learned mask, SMP-L",
            "magnitude mask",
            "learned masks beat magnitude's on the same frozen weights",
            "accuracy",
        ),
        higher("learned mask, SMP-L", "random mask", "and random ones", "accuracy"),
    ),
    run=_mask_only,
    remarks="""The same task and model as row 4, as a cloze without a new head: the word of the file is the next token.
The fixture's weights stay as they are, half of each matrix but the head is masked; masks learn for 150 steps. What the
paper claims beyond this, that masks alone beat pruning with tuning, needs a pre-trained model of BERT's size. SMP-S
stands in the figures; it needs a penalty, and matrices of one shape are its types.""",
)

ROWS: tuple[Row, ...] = (_GRADUAL_MAGNITUDE, _CAP, _MASK_ONLY)
