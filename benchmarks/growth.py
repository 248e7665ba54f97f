"""What the tool costs as models grow: `optimize` from 1 to 300 million parameters, beside int8 alone.

    python -m benchmarks.growth [--most 300] [--folder benchmarks]

Writes `growth.json` after each size, and `growth.md` from it; sizes that the .json holds are not measured again without
`--fresh`. Pre-norm transformers with random weights and no sample inputs: the default pipeline, and onnxruntime's
`quantize_dynamic` on the same file. One thread.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx

from benchmarks import contenders, script, tables
from benchmarks.scaling import transformer

Row = dict[str, Any]

# Millions of parameters: layers and width; each layer has 4 w² of attention and 8 w² of feed-forward.
SIZES = {1: (5, 128), 10: (8, 320), 100: (12, 832), 300: (15, 1280)}
_TOKENS = 32
_HEAD = ("parameters", "nodes", "file MB", "tool", "of the file", "wall s", "CPU s", "CPU s per million", "peak MB",
         "peak of the file")  # fmt: skip


def measured(millions: int, folder: Path) -> list[Row]:
    """Return what each tool took for a model of so many million parameters."""
    layers, width = SIZES[millions]
    path, target = folder / "model.onnx", folder / "made.onnx"
    proto = transformer(layers, width, width // 64 * 2, 4 * width)
    onnx.save(proto, path)
    facts = {"parameters": layers * 12 * width * width, "nodes": len(proto.graph.node), "bytes": path.stat().st_size}
    del proto
    attempts = (
        contenders.onnxprune(path, target, "--target", "cpu:1", "--shape", f"x=1x{_TOKENS}x{width}"),
        contenders.peer("ort-dynamic", path, folder / "peer.onnx", None),
    )
    rows = []
    for attempt in attempts:
        row: Row = {**facts, "tool": attempt.tool, "error": attempt.error}
        if attempt.cost:
            cost = attempt.cost
            row |= {"seconds": cost.seconds, "cpu_seconds": cost.cpu_seconds, "peak_mb": cost.peak_mb}
        if not attempt.error:
            row["share"] = attempt.file.stat().st_size / facts["bytes"]
        rows.append(row)
    return rows


def markdown(result: Row) -> str:
    """Return the page."""
    how = (
        f"{result['machine']['cpu']}; one thread; transformers of random weights, no sample inputs, {_TOKENS} tokens. "
        "Time beside the size says whether it is linear; peak beside the file how often weights are held."
    )
    parts = [
        "# The tool's own cost as models grow",
        "Written by `python -m benchmarks.growth`; not edited by hand.",
        how,
        tables.table(_HEAD, map(_cells, result["rows"])),
    ]
    return "\n\n".join(parts) + "\n"


def _cells(row: Row) -> list[str]:
    millions, megabytes = row["parameters"] / 1e6, row["bytes"] / 1e6
    facts = [f"{millions:.1f} M", f"{row['nodes']:,}", f"{megabytes:.0f}", row["tool"]]
    if row["error"]:
        return [*facts, row["error"], *[""] * 5]
    return [
        *facts, f"{row['share']:.3f}", f"{row['seconds']:.1f}", f"{row['cpu_seconds']:.1f}",
        f"{row['cpu_seconds'] / millions:.2f}", f"{row['peak_mb']:.0f}", f"{row['peak_mb'] / megabytes:.2f}",
    ]  # fmt: skip


def main(arguments: list[str]) -> int:
    """Measure and write both files."""
    parser = script.options(__doc__)
    parser.add_argument("--most", type=int, default=max(SIZES), help="million parameters at most (default 300)")
    parser.add_argument("--fresh", action="store_true", help="measure again what the .json holds")
    asked = script.read(parser, arguments)
    held: list[Row] = [] if asked.fresh else script.held(asked.folder, "growth").get("rows", [])
    for millions, (layers, width) in SIZES.items():
        if millions > asked.most or any(row["parameters"] == layers * 12 * width * width for row in held):
            continue
        with tempfile.TemporaryDirectory() as folder:
            held += measured(millions, Path(folder))
        result = {"machine": script.machine(), "rows": sorted(held, key=lambda row: row["parameters"])}
        script.write(asked.folder, "growth", result, markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
