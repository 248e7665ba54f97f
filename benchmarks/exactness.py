"""Cutting equals masking, on the fixtures and the real models.

    python -m benchmarks.exactness [--only PREFIX ...] [--folder benchmarks]

Of every attention 3/8 of the heads go (all of its key-value groups alike), of every feed-forward and every channel
dimension 37 %, all at once; the cut model is compared with the original in which the same units are zeroed where they
are consumed, at two shapes, with onnxruntime's optimizations off and on. Where float32 rounding exceeds the bound of
1e-5, both are evaluated in float64 by onnx's reference, where only a wrong cut is left. Writes `exactness.md`.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np

from benchmarks import models, tables, tasks
from onnxprune.model import load
from onnxprune.runtime import open_session
from onnxprune.synthetic import probes
from tests.equality import BOUND, Traced, compare, cut, error_in_doubles, traced

_FIXTURES = Path(__file__).parents[1] / "fixtures"
_SHARES = {"heads": 3 / 8, "neurons": 0.37, "channels": 0.37}


def removals(held: Traced) -> dict[int, tuple[int, ...]]:
    """Return units drawn at random from every dimension that can be cut and has units enough."""
    random = np.random.default_rng(0)
    chosen = {}
    for dimension in held.dimensions.prunable:
        count = int(dimension.units * _SHARES.get(dimension.kind, 0))
        if count:
            units = random.choice(dimension.units, count, replace=False)
            chosen[dimension.index] = tuple(sorted(int(unit) for unit in units))
    return chosen


def row(name: str, path: Path, like: dict[str, np.ndarray] | None) -> list[str]:
    """Return a line of the table: what was cut, what it saved, how exact it was."""
    feeds = probes(load(path), open_session(path), like)
    held = traced(path, feeds)
    chosen = removals(held)
    kinds = [held.dimensions.all[index].kind for index in chosen]
    counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in _SHARES if kind in kinds) or "nothing to cut"
    if not chosen:
        return [name, counted, "", "", ""]
    _, saved = cut(held, chosen)
    error, moved = compare(held, chosen, feeds)
    verdict = f"exact: {error:.1e}"
    if error > BOUND:
        wide = error_in_doubles(held, chosen, feeds[0])
        verdict = f"{'exact' if wide <= BOUND else 'NOT exact'} in float64: {wide:.1e} (float32 {error:.1e})"
    return [name, counted, f"{saved:,}", f"{moved:.2g}", verdict]


def main(arguments: list[str]) -> int:
    """Measure and write the page; 1 if a cut is not exact."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], metavar="PREFIX")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    asked = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    found = {path.parent.name: (path, None) for path in sorted(_FIXTURES.glob("*/model.onnx"))}
    found |= {name: (models.get(name), tasks.feed(name)) for name in models.MODELS if not name.startswith("int8")}
    rows = []
    for name, (path, like) in found.items():
        if name.startswith(tuple(asked.only)):
            rows.append(row(name, path, like))
            print(*rows[-1], sep=" | ", flush=True)
    head = ["model", "dimensions cut", "parameters removed", "outputs moved by", "max|cut - masked| / max|masked|"]
    intro = (__doc__ or "").split("\n\n", 2)[2].replace("Writes `exactness.md`.", "").strip()
    page = f"# Exactness on real models\n\nWritten by `python -m benchmarks.exactness`.\n\n{intro}\n\n"
    (asked.folder / "exactness.md").write_text(page + tables.table(head, rows) + "\n", encoding="utf-8")
    return int(any("NOT" in line[-1] for line in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
