"""The thirteen systems beside their papers: one row each, at small scale, over several seeds.

    python -m benchmarks.papers [--only NAME ...] [--seeds N] [--again] [--folder benchmarks] [--page]

Each seed's figures are kept in `papers_*.json` as soon as they are there, one file a module of rows; seeds that are
there are not run again, unless `--again` is given. `papers.md` is written from these files after each seed, and by
`--page` alone without running anything.
"""

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import papers_gates, papers_masks, papers_oneshot
from benchmarks.papers_page import markdown
from benchmarks.papers_row import Row
from benchmarks.script import machine

# Where each module's figures are kept, so that rows can be measured side by side.
HOMES: Mapping[str, tuple[Row, ...]] = {
    "papers_masks.json": papers_masks.ROWS,
    "papers_gates.json": papers_gates.ROWS,
    "papers_oneshot.json": papers_oneshot.ROWS,
}
ROWS: tuple[Row, ...] = tuple(sorted((row for rows in HOMES.values() for row in rows), key=lambda row: row.system))

Measured = dict[str, Any]


def main(arguments: Sequence[str]) -> int:
    """Measure what is asked for and not there yet, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[row.name for row in ROWS], metavar="NAME")
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds 0 … N-1 (default: as each row says)")
    parser.add_argument("--again", action="store_true", help="forget what was measured of these rows")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    parser.add_argument("--page", action="store_true", help="write the page of what is there, and stop")
    asked = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if not asked.page:
        for home, rows in HOMES.items():
            for row in rows:
                if not asked.only or row.name in asked.only:
                    seeds = row.seeds if asked.seeds is None else tuple(range(asked.seeds))
                    measure(row, seeds, asked.folder, home, again=asked.again)
    write_page(asked.folder)
    return 0


def measure(row: Row, seeds: Sequence[int], folder: Path, home: str, *, again: bool) -> None:
    """Run a row with the seeds that are not there yet; the files are written after each."""
    if again:
        held = read(folder / home)
        held.pop(row.name, None)
        write(folder / home, held)
    for seed in seeds:
        if str(seed) in read(folder / home).get(row.name, {}).get("seeds", {}):
            continue
        print(f"{row.name}, seed {seed} …", file=sys.stderr, flush=True)
        wall, cpu = time.perf_counter(), cpu_seconds()
        figures = dict(row.run(seed))
        cost = {"cpu_seconds": round(cpu_seconds() - cpu, 1), "seconds": round(time.perf_counter() - wall, 1)}
        # Read again: another process may have written a row meanwhile.
        held = read(folder / home)
        entry = held.setdefault(row.name, {"seeds": {}})
        entry["machine"] = machine()
        entry["seeds"][str(seed)] = {"figures": figures, **cost}
        write(folder / home, held)
        write_page(folder)


def cpu_seconds() -> float:
    """Of this process and of those that it waited for."""
    return sum(os.times()[:4])


def read(path: Path) -> Measured:
    """What was measured, by row; nothing where there is no file yet."""
    held: Measured = {}
    with contextlib.suppress(FileNotFoundError):
        held = json.loads(path.read_text(encoding="utf-8"))
    return held


def write(path: Path, held: Measured) -> None:
    """Rows in the order of their names."""
    text = json.dumps(dict(sorted(held.items())), indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def write_page(folder: Path) -> None:
    """The page from all files."""
    held: Measured = {}
    for home in HOMES:
        held |= read(folder / home)
    (folder / "papers.md").write_text(markdown(ROWS, held), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
