"""The page of `sparsity.json`. Pure: JSON values in, text out."""

import json
from typing import Any

from benchmarks import tables

Row = dict[str, Any]

_SOLVERS = (
    "Products in float, activations untouched: weights alone differ. `solver=joint` where none is named. Tables, "
    "and the head that is a copy of one, stay without zeros."
)
_CURVE = (
    "Zeros shared out over weights by the loss (`allocation=loss`), 2:4 aside. Of this small model the graph and the "
    "packing operators take a good part of the file."
)
_ENCODER = (
    "Differences to fp32 on the same items, with 95 % intervals. Payload: what the numbers alone take, computed in "
    "`benchmarks/sparsity.py`. Sparsity buys file size, not speed."
)


def markdown(result: Row) -> str:
    """Return the page written from the results."""
    lines = [
        "# Zeros and integers together, measured",
        "",
        "Written by `python -m benchmarks.sparsity`; not edited by hand.",
        f"Machine: {json.dumps(result['machine'])}",
    ]
    if "solvers" in result:
        body = [
            [str(row["bits"]), row["without"], f"{row['perplexity_without']:.3f}", row["with"],
             f"{row['perplexity_with']:.3f}", f"{row['ratio']:.4f} ({row['low']:.4f} … {row['high']:.4f})",
             f"≤ {row['allowed']}", "yes" if row["holds"] else "**no**"]
            for row in result["solvers"]
        ]  # fmt: skip
        head = ["bits", "beside", "perplexity", "solved", "perplexity", "ratio (95 %)", "must be", "holds"]
        lines += ["", f"## GPT fixture: solving, {result['blocks']} held-out blocks of 64 tokens", "",
                  _SOLVERS, "", tables.table(head, body)]  # fmt: skip
    if "curve" in result:
        body = [
            [row["form"], f"{row['bytes']:,}", f"{row['share']:.3f}", f"{row['zeros']:.3f}",
             f"{row['perplexity']:.3f}", f"{row['ratio']:.4f} ({row['low']:.4f} … {row['high']:.4f})"]
            for row in result["curve"]
        ]  # fmt: skip
        head = ["form", "bytes, packed", "of fp32", "zeros in products", "perplexity", "of fp32's (95 %)"]
        lines += ["", "## GPT fixture: perplexity against bytes", "",
                  _CURVE, "", tables.table(head, body)]  # fmt: skip
    if "encoder" in result:
        names = [score["task"] for score in result["encoder"][0]["scores"]]
        body = [_encoder_cells(row) for row in result["encoder"]]
        head = [
            "form",
            "bytes",
            "of fp32",
            "must be",
            "payload",
            "over it",
            "speed-up, busy machine",
            "explained",
            *names,
        ]
        lines += ["", "## minilm-torchscript-eager: packed files and task scores", "",
                  _ENCODER, "", tables.table(head, body)]  # fmt: skip
    return "\n".join(lines) + "\n"


def _encoder_cells(row: Row) -> list[str]:
    scores = [
        f"{score['value']:.4f}" if row["form"] == "fp32" else
        f"{score['value']:.4f}: {score['difference']:+.4f} "
        f"({score['difference_low']:+.4f} … {score['difference_high']:+.4f})"
        for score in row["scores"]
    ]  # fmt: skip
    if row["form"] == "fp32":
        return ["fp32", f"{row['bytes']:,}", "1", *[""] * 5, *scores]
    speedup = row["speedup"]
    return [
        row["form"], f"{row['bytes']:,}", f"{row['share']:.4f}",
        "" if row["allowed"] is None else f"≤ {row['allowed']}",
        f"{row['payload']:,.0f}", f"{row['over_payload']:+.2%}",
        f"{speedup['ratio']:.2f} ({speedup['low']:.2f} … {speedup['high']:.2f})", f"{row['explained']:.3f}", *scores,
    ]  # fmt: skip
