"""Rows of the methods that cut once: wanda, shortened-llama, laco, llm-pruner; and ngram."""

from benchmarks.papers_row import Figures, Row, at_least, at_most, lower

LORA = "recover:rank=8,lr=1e-3,steps=60,batch=16,check=30,hidden=0.0"
_LESSONS = 960
_BY_COSINE = "remove-blocks:keep=0,layers=yes,score=cosine"


def _wanda(seed: int) -> Figures:
    from benchmarks.papers_gpt import Bench
    from benchmarks.papers_wanda import changed, masked, rescaled

    bench = Bench(seed, 96)
    other = rescaled(bench.model, seed)
    figures = {"dense": bench.perplexity(bench.model)}
    # The same function: only the last digits of sums may differ.
    figures["dense-rescaled"] = bench.perplexity(other)
    for score in ("wanda", "magnitude"):
        for name, pattern in (("70%", 0.7), ("2:4", None)):
            figures[f"{score}-{name}"] = bench.perplexity(masked(bench, bench.model, score, pattern))
        figures[f"{score}-changed"] = changed(bench, other, score)
    return figures


_WANDA = Row(
    system=6,
    name="wanda",
    paper="Sun et al. 2023, A Simple and Effective Pruning Approach for Large Language Models",
    headline="Weights ranked by size times their input's norm within each output prune far better than by size alone, "
    "without gradients or updates",
    source="abstract",
    checks=(
        lower("wanda-70%", "magnitude-70%", "at 70 % zeros, within the same groups, better than by size", "perplexity"),
        lower("wanda-2:4", "magnitude-2:4", "at 2:4 better than by size", "perplexity"),
        lower(
            "wanda-changed",
            "magnitude-changed",
            "gains of norms times 16, and what reads them divided by it, move zeros by size",
            "of the zeros",
        ),
        at_most("wanda-changed", 0.0, "and no zero by size times input", "of the zeros"),
    ),
    run=_wanda,
    remarks="""A seed draws 96 calibration blocks of 64 tokens. All linears of `fixtures/gloss-gpt` but the
head, weights in float, nothing updated; masks come from the dense model's inputs at once, where the authors'
code goes block by block. At 50 % a model this small, without outlier features, does not tell the scores apart,
so that nothing is claimed there. Six channels behind each norm are rescaled for the last check, which leaves
the model's function as it is.""",
)


def _shortened(seed: int) -> Figures:
    from benchmarks.papers_gpt import Bench

    bench = Bench(seed, 10, _LESSONS)
    layers = bench.layers()
    alone = {layer: bench.perplexity(bench.without(layer)) for layer in layers}
    scored = bench.scored(layers, "remove-blocks:keep=0,layers=yes,score=loss")
    order = sorted(scored, key=scored.__getitem__)
    two = bench.without(*order[:2])
    random, _ = bench.cut(bench.model, "remove-blocks:keep=4,layers=yes,score=random")
    return {
        "place": 1.0 + sorted(alone, key=alone.__getitem__).index(order[0]),
        "place-of-first-layer": 1.0 + order.index(layers[0]),
        "layers": float(len(layers)),
        "dense": bench.perplexity(bench.model),
        "one-removed": alone[order[0]],
        "first-layer-removed": alone[layers[0]],
        "two-removed": bench.perplexity(two),
        "two-at-random": bench.perplexity(random),
        "two-recovered": bench.perplexity(bench.cut(two, LORA)[0]),
    }


_SHORTENED = Row(
    system=7,
    name="shortened-llama",
    paper="Kim et al. 2024, Shortened LLaMA",
    headline="Whole layers removed at once by their effect on perplexity, then LoRA: as good as width pruning, and "
    "faster at small batches",
    source="abstract, and the authors' code for the criterion",
    checks=(
        at_most("place", 2, "the layer chosen is the best or second best of all to remove", "of all six"),
        at_least("place-of-first-layer", 6, "the first layer is the last to go", "of six"),
        lower("two-removed", "two-at-random", "two layers chosen so beat two at random", "perplexity"),
        lower("two-recovered", "two-removed", "low-rank recovery mends", "perplexity"),
    ),
    run=_shortened,
    remarks=f"""A seed draws 10 calibration blocks of 64 tokens, as many samples as the authors', and 1280
blocks to recover on. Six layers; perplexity of 256 held-out blocks. Recovery is `{LORA}`: products of rank 8,
merged at the end, distilled from the original without labels, where the paper trains LoRA on the next tokens of
Alpaca. How latency falls with depth is measured in [blocks.md](blocks.md).
On one seed the random pair happens to be as cheap (35.9) as the chosen one (36.4): layers are scored once, as the
authors do, and two that are each cheap alone need not be so together. Scoring anew after each (`greedy=yes`) was not
measured here.""",
)


def _laco(seed: int) -> Figures:
    from benchmarks.papers_gpt import Bench, parameters

    bench = Bench(seed, 24, _LESSONS)
    merged, edits = bench.cut(bench.model, "merge-blocks:keep=4")
    printed, _ = bench.cut(bench.model, "merge-blocks:keep=4,group=3,rule=sum-of-differences")
    released, _ = bench.cut(bench.model, "merge-blocks:keep=4,group=3")
    by_threshold, walked = bench.cut(bench.model, "merge-blocks:threshold=0.9")
    del by_threshold
    logged = float(edits[-1].args["cosine"])
    dropped = bench.without(*sorted(scored := bench.scored(bench.layers(), _BY_COSINE), key=scored.__getitem__)[:2])
    return {
        "layers-left": 6.0 - len(edits),
        "numbers-left": parameters(merged) / parameters(bench.model),
        "cosine": logged,
        "cosine-off": abs(logged - bench.cosine(merged)),
        "least-cosine-above-0.9": min((float(edit.args["cosine"]) for edit in walked), default=1.0),
        "dense": bench.perplexity(bench.model),
        "merged": bench.perplexity(merged),
        "dropped": bench.perplexity(dropped),
        "released-rule": bench.perplexity(released),
        "printed-rule": bench.perplexity(printed),
        "merged-recovered": bench.perplexity(bench.cut(merged, LORA)[0]),
    }


_LACO = Row(
    system=10,
    name="laco",
    paper="Yang et al. 2024, LaCo: Large Language Model Pruning via Layer Collapse",
    headline="Rear layers merged into earlier ones keep more than 80 % of the average task score at 25-30 % pruning",
    source="abstract",
    checks=(
        at_most("layers-left", 4, "the target of four of six layers is met", "layers"),
        at_most("cosine-off", 1e-3, "the cosine that was logged is that of the written model"),
        at_least("least-cosine-above-0.9", 0.9, "with a threshold of 0.9 no merge falls below it"),
        lower("released-rule", "printed-rule", "for groups of three the code's rule beats the printed", "perplexity"),
        lower("merged-recovered", "merged", "low-rank recovery mends", "perplexity"),
    ),
    run=_laco,
    remarks=f"""A seed draws 24 calibration blocks and 960 blocks to recover on. The printed rule and the
released code differ: the code's in-place sum leaves the last layer of a group with the first one's norms, and
that is the default here. That merging beats dropping is not claimed: `dropped` is two layers left out by how
little they turn their input. Recovery: `{LORA}`, distilled, where the paper mostly has none.""",
)


def _llm_pruner(seed: int) -> Figures:
    from benchmarks.papers_gpt import Bench

    bench = Bench(seed, 10, _LESSONS)
    figures = {"dense": bench.perplexity(bench.model)}
    kept = None
    for name, score in (("taylor", "taylor"), ("L2", "magnitude"), ("random", "random")):
        options = f"keep=0.5,score={score},refit=no"
        cut, _ = bench.cut(bench.model, f"remove-heads:{options}", f"remove-neurons:{options}")
        figures[name] = bench.perplexity(cut)
        kept = kept or cut
    recovered, _ = bench.cut(kept or bench.model, LORA)
    return {**figures, "taylor-recovered": bench.perplexity(recovered)}


_LLM_PRUNER = Row(
    system=11,
    name="llm-pruner",
    paper="Ma et al. 2023, LLM-Pruner: On the Structural Pruning of Large Language Models",
    headline="Coupled heads and neurons cut by first-order gradients of a few samples; LLaMA-7B at 20 %: perplexity "
    "19.1 by element-wise Taylor, 27.5 at random; LoRA brings it to 17.4-17.6",
    source="the authors' published results",
    checks=(
        lower("taylor", "L2", "by gradients better than by size", "perplexity"),
        lower("taylor", "random", "by gradients better than at random", "perplexity"),
        lower("taylor-recovered", "taylor", "low-rank recovery mends", "perplexity"),
    ),
    run=_llm_pruner,
    remarks=f"""A seed draws 10 calibration blocks of 64 tokens, as many samples as the authors', and 1280
blocks to recover on. Half of the heads and neurons of every layer, nothing refitted. The paper spares the first
four and last layers of 32; six layers here are all cut. Its "L2 is worse than random" is of a large model and
is not asked for. Recovery: `{LORA}`, distilled, where the paper trains LoRA on the next tokens of Alpaca.""",
)


def _ngram(seed: int) -> Figures:
    from benchmarks.papers_ngram import figures

    return figures(seed)


_NGRAM = Row(
    system=12,
    name="ngram",
    paper="Goodman and Gao 2000, Language Model Size Reduction by Pruning and Clustering",
    headline="Classes of words and Stolcke's pruning together give models up to three times smaller than Stolcke's "
    "pruning alone at equal perplexity; clustered models start larger",
    source="abstract",
    checks=(
        lower("stolcke", "cutoff", "Stolcke's criterion beats a cutoff of counts at equal size", "perplexity"),
        lower("stolcke-5%", "cutoff-5%", "and at a size near 5 %", "perplexity"),
        at_least("clustered-share", 1.0, "with classes the model is larger before n-grams go", "of the plain size"),
        lower("classes-5%", "stolcke-5%", "with classes better than without at 5 % of the numbers", "perplexity"),
        at_most("equal-perplexity-share", 1.0, "and at equal perplexity smaller than Stolcke's alone", "of its size"),
        at_most("sum-off", 1e-5, "probabilities of the pruned ONNX file sum to one"),
        at_most("answer-off", 1e-5, "the ONNX file answers as the model in memory"),
        at_most("entropy-off", 1e-6, "what a score says of one n-gram is what dropping it does, by brute force"),
    ),
    run=_ngram,
    remarks="""A seed draws 12,000 of WordNet's noun definitions to count (words seen at least three times;
trigrams, absolute discount 0.7) and 1,500 others to look at. Sizes count probabilities and alphas. `cutoff`
drops n-grams seen at most twice, `stolcke` keeps as many numbers. Classes: 64 by the exchange algorithm on what
the model's own bigrams expect; the clustered model is an exact rewrite of the plain one, where the paper trains
both parts from counts. Up to three times smaller is not reached on so little text: `classes-5%` beside
`stolcke-5%` is what comes.""",
)

ROWS: tuple[Row, ...] = (_WANDA, _SHORTENED, _LACO, _LLM_PRUNER, _NGRAM)
