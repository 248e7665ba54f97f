"""Write the results of `benchmarks.blocks` as markdown. Pure: JSON values in, text out."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import tables

Row = dict[str, Any]


def markdown(result: Row, seeds: range, drawn: int) -> str:
    """Return the page; random orders and as many drawn samples were run once for each seed."""
    lines = [
        "# Blocks and layers, measured",
        "Written by `python -m benchmarks.blocks`; not edited by hand.",
        f"Machine: {json.dumps(result['machine'])}",
        (
            "fixtures/gloss-gpt: 6 layers of width 96, trained once (seed 0). Perplexity of 256 held-out blocks of 64 "
            f"tokens; uncut {result['uncut']:.2f}. Criteria see at most 64 of 192 calibration samples, spread evenly; "
            f"{drawn} samples and the random order are drawn with seeds {seeds.start} to {seeds.stop - 1}: "
            "the mean, with all runs beside it."
        ),
    ]
    for name in ("blocks", "layers"):
        found = result[name]
        lines += [
            f"## One of {len(found['held_out'])} {name} removed",
            "Held-out perplexity without each: "
            + ", ".join(f"{unit} {value:.2f}" for unit, value in found["held_out"].items())
            + ". Place: of the criterion's first choice among all, 1 is the best. Correlation: Spearman's, of the "
            "whole order with held-out perplexity.",
            tables.table(
                ("criterion", "first choice", "its place", "its perplexity", "correlation"),
                (
                    (
                        row["criterion"],
                        ", ".join(row["picks"]),
                        ", ".join(map(str, row["place"])),
                        f"{np.mean(row['perplexity']):.2f}",
                        f"{np.mean(row['correlation']):.2f}" + _spread(row["correlation"]),
                    )
                    for row in found["rows"]
                ),
            ),
        ]
    lines += [
        "## Several blocks by perplexity: scored once, or anew after each removal",
        tables.table(
            ("removed", "scored once", "perplexity", "greedy", "perplexity", "best of all"),
            (
                (
                    str(row["count"]),
                    ", ".join(row["once"]),
                    f"{row['once_perplexity']:.2f}",
                    ", ".join(row["greedy"]),
                    f"{row['greedy_perplexity']:.2f}",
                    f"{', '.join(row['best'])} {row['best_perplexity']:.2f} ({row['choices']} pairs; scored once is "
                    f"place {row['place']})"
                    if "best" in row
                    else "not searched",
                )
                for row in result["several"]
            ),
        ),
        "## Layers merged into one (LaCo), beside dropping as many",
        (
            "Cosine of the final hidden states on 64 calibration samples. `last` is what the authors' code does, "
            "`sum-of-differences` what the paper prints; for two layers they agree. Keep first "
            "and keep last drop the other layers."
        ),
        tables.table(
            (
                "layers",
                "last: cosine",
                "perplexity",
                "sum: cosine",
                "perplexity",
                "keep first",
                "keep last",
            ),
            (
                (
                    f"{row['first']} to {row['first'] + row['group'] - 1}",
                    f"{row['last']['cosine']:.4f}",
                    f"{row['last']['perplexity']:.2f}",
                    f"{row['sum-of-differences']['cosine']:.4f}",
                    f"{row['sum-of-differences']['perplexity']:.2f}",
                    f"{row['keep first']:.2f}",
                    f"{row['keep last']:.2f}",
                )
                for row in result["merges"]
            ),
        ),
        "## Latency by depth",
        (
            "16 x 64 tokens, one thread, files in alternation; whole layers by perplexity; median of paired ratios "
            "to the uncut model (95 %)."
        ),
        tables.table(
            ("layers", "speed-up"),
            (
                (
                    str(row["layers"]),
                    _ratio(row),
                )
                for row in result["speed"]
            ),
        ),
    ]
    return "\n\n".join(lines) + "\n"


def _ratio(row: Row) -> str:
    return f"{row['ratio']:.2f} ({row['low']:.2f} … {row['high']:.2f})" if row["removed"] else "1"


def _spread(values: Sequence[float]) -> str:
    return f" ({min(values):.2f} … {max(values):.2f})" if len(values) > 1 else ""
