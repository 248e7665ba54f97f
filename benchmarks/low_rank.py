"""Low rank without training: what each method costs in perplexity, and what short embedding codes cost in scores.

    python -m benchmarks.low_rank    measure and write benchmarks/low_rank.md

Nothing here is timed, so that every run gives the same figures on the same processor.
"""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
from onnx import numpy_helper

import onnxprune
from benchmarks import models, tasks, text
from fixtures.score import FIXTURES, score
from onnxprune.result import Result

TARGET = Path(__file__).with_suffix(".md")
RATIOS = (0.9, 0.8, 0.6)
METHODS = ("svd", "asvd", "svd-llm")
# The linears of the six blocks; the head belongs to the embedding.
BLOCKS = "+".join(f"linear.{at}" for at in range(24))
MINILM = "minilm-torchscript-eager"
WORDS = "model.embeddings.word_embeddings.weight"
ENCODINGS = (
    ("int8 rows", ()),
    ("codes, all rows alike", ("factor-embedding:ratio=0.24,frequency=no",)),
    ("codes by frequency", ("factor-embedding:ratio=0.24,clusters=1",)),
    ("codes by frequency, 3 clusters", ("factor-embedding:ratio=0.24",)),
    ("the same, twice as long", ("factor-embedding:ratio=0.48",)),
)


def perplexities(folder: Path) -> Iterator[list[str]]:
    """Rows of held-out perplexity on gloss-gpt, at the shares of `RATIOS`."""
    source = FIXTURES / "gloss-gpt"
    yield ["none", *[f"{score('gloss-gpt', source / 'model.onnx'):.3f}"] * len(RATIOS)]
    for method in METHODS:
        row = [method]
        for ratio in RATIOS:
            spec = f"factor-linear:method={method},ratio={ratio},faster=no,sites={BLOCKS}"
            result = compressed(source / "model.onnx", source / "calibration.npz", (spec,), folder)
            row.append(f"{score('gloss-gpt', result.output):.3f}")
        yield row


def fidelities(folder: Path) -> Iterator[list[str]]:
    """Rows of what is left of MiniLM's output at the same shares."""
    source, data = models.get(MINILM), tasks.calibration_file(MINILM)
    for method, joint in (*((method, "yes") for method in METHODS), ("svd-llm", "no")):
        specs = [f"factor-linear:method={method},ratio={ratio},faster=no,joint={joint}" for ratio in RATIOS]
        found = [compressed(source, data, (spec,), folder).fidelity.score for spec in specs]
        yield [method if joint == "yes" else f"{method}, joint=no", *(f"{value:.4f}" for value in found)]


def encodings(folder: Path) -> Iterator[list[str]]:
    """Rows of bytes, fidelity and task scores of MiniLM with its word table in several forms, all in int8."""
    source, data = models.get(MINILM), tasks.calibration_file(MINILM)
    yield ["float", f"{table_bytes(source)}", "", f"{source.stat().st_size}", "1", *scores(source)]
    whole = 0
    for name, passes in ENCODINGS:
        result = compressed(source, data, (*passes, "sparse-int8"), folder)
        size = table_bytes(result.output)
        whole = whole or size
        row = [name, f"{size}", f"{size / whole:.3f}", f"{result.after.size_bytes}", f"{result.fidelity.score:.4f}"]
        yield [*row, *scores(result.output)]


def scores(path: Path) -> list[str]:
    """The task scores in the order of `SCORES`."""
    return [f"{one.value:.4f}" for one in text.scores(path)]


SCORES = ("wordsim353", "recall@1", "reciprocal rank", "lee pearson", "lee spearman")


def compressed(source: Path, data: Path | None, passes: Sequence[str], folder: Path) -> Result:
    """The result of `onnxprune optimize` with these passes and no floor."""
    print(f"{source.stem}: {' '.join(passes)}", file=sys.stderr, flush=True)
    return onnxprune.optimize(
        source, output=folder / "out.onnx", data=None if data is None else str(data), passes=passes
    )


def table_bytes(path: Path) -> int:
    """Bytes of the word table, or of all that has taken its place."""
    return sum(
        numpy_helper.to_array(tensor).nbytes
        for tensor in onnx.load(path).graph.initializer
        if tensor.name.startswith(WORDS)
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows as a markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


PAGE = """# Low rank without training

`python -m benchmarks.low_rank` makes this page. Nothing is timed: pairs and codes stay whether or not they are faster,
so that methods are compared at equal numbers.

## gloss-gpt: held-out perplexity of 256 blocks of 64 tokens

The 24 linears of its blocks hold this share of their numbers. Calibrated on three quarters of 256 blocks of training
text.

{perplexities}

## MiniLM-L6: explained share of the output

All 36 linears hold this share of their numbers; Q, K and V have one left factor where that misses less. Calibrated on
192 texts, explained on 64 others.

{fidelities}

## MiniLM-L6: the word table as codes, then int8

30522 x 384 numbers, half of the model. `share` is of the bytes of the int8 table; every row but the first is the whole
model in int8. The 192 texts show 13 thousand tokens, 4 thousand of them different; tokens that they do not show lose
most.

{encodings}
"""


def main() -> None:
    """Print the tables and write them."""
    head = [f"{ratio}" for ratio in RATIOS]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        page = PAGE.format(
            perplexities=table(("method", *head), list(perplexities(folder))),
            fidelities=table(("method", *head), list(fidelities(folder))),
            encodings=table(("word table", "bytes", "share", "file", "explained", *SCORES), list(encodings(folder))),
        )
    print(page)
    TARGET.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
