"""The page of `goals.json`. Pure: JSON values in, text out."""

import json
from itertools import groupby
from typing import Any

from benchmarks import tables

Row = dict[str, Any]
_UNIFORM = (
    "Each seed calibrates on other blocks. Uniform contenders have the shape whose speed is nearest to the searched "
    "model's, in int8. Each is raced alone against the original, as a user times it."
)
_SCORES = (
    "Explained: the least share of an output's variance that survives, on all calibration samples, by "
    "`onnxprune validate`. Scores: higher is better."
)
_CONTENDERS = ("search", "uniform obs", "uniform magnitude")


def markdown(result: Row) -> str:
    """Return the page written from the results."""
    lines = [
        "# Goals of speed, measured",
        "",
        "Written by `python -m benchmarks.goals`; not edited by hand.",
        f"Machine: {json.dumps(result['machine'])}",
        f"Speed-ups: medians of {result['rounds']} paired ratios to fp32, one thread.",
    ]
    if "gpt" in result:
        lines += _gpt(result["gpt"])
    if "encoder" in result:
        lines += _encoder(result["encoder"])
    return "\n".join(lines) + "\n"


def _gpt(result: Row) -> list[str]:
    body = []
    holds = []
    for (target, seed), rows in groupby(result["rows"], key=lambda row: (row["target"], row["seed"])):
        best = _best(list(rows))
        found = [best[name] for name in _CONTENDERS]
        perplexities = [row["perplexity"] for row in found]
        holds.append(perplexities == sorted(perplexities) and len(set(perplexities)) == len(perplexities))
        near = abs(found[0]["speedup"] / target - 1)
        predicted = found[0]["predicted"]
        body.append(
            [
                f"{target:g} x", str(seed),
                *(f"{row['perplexity']:.2f} at {row['speedup']:.2f} x{_shape(row)}" for row in found),
                f"{100 * near:.1f} %", f"{predicted:.2f} x ({100 * abs(predicted / found[0]['speedup'] - 1):.1f} %)",
                "yes" if holds[-1] else "**no**",
            ]
        )  # fmt: skip
    head = ["asked", "seed", *_CONTENDERS, "off the asked speed", "predicted (off)", "in this order"]
    return [
        "",
        f"## GPT fixture: perplexity of held-out text (uncut {result['uncut']:.2f})",
        "",
        _UNIFORM,
        "",
        tables.table(head, body),
        "",
        f"The order search < uniform OBS < uniform magnitude holds in {sum(holds)} of {len(holds)} rows.",
    ]


def _best(rows: list[Row]) -> dict[str, Row]:
    """The row of lowest perplexity of each contender."""
    found: dict[str, Row] = {}
    for row in rows:
        held = found.get(row["contender"])
        if held is None or row["perplexity"] < held["perplexity"]:
            found[row["contender"]] = row
    return found


def _shape(row: Row) -> str:
    if "heads" not in row:
        return ""
    return f" ({row['heads']} heads, {row['neurons']} neurons{', int8' if row['int8'] else ''})"


def _encoder(result: Row) -> list[str]:
    rows = result["rows"]
    names = [score["task"] for score in rows[0]["scores"]]
    body = []
    for row in rows:
        if row["error"]:
            body.append([row["tool"], row["error"], *[""] * (3 + len(names)), ""])
            continue
        predicted = "" if row["predicted"] is None else f", {row['predicted']:.2f} predicted"
        body.append(
            [
                row["tool"],
                f"{row['speedup']:.2f} ({row['low']:.2f} … {row['high']:.2f}){predicted}",
                f"{row['median_ms']:.2f}",
                f"{row['share']:.3f}",
                f"{row['explained']:.3f}",
                *(f"{score['value']:.4f}" for score in row["scores"]),
                "" if row["seconds"] is None else f"{row['seconds']:.0f} s",
            ]
        )
    return [
        "",
        "## MiniLM, batch 1 x 128, cpu:1",
        "",
        _SCORES,
        "",
        tables.table(["tool", "speed-up (95 %)", "ms", "file", "explained", *names, "tool took"], body),
    ]
