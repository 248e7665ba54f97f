"""`docs/limits.md`, from what `large` has measured."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import tables

_GIB = 2**30

_HEAD = """# Limits

Written by `python -m benchmarks.large`; each figure is repeated by that command, which makes the models itself,
measures each step as a process of its own and writes down every row. With `--only 0.6` it takes the smallest
model alone. How time grows with nodes, up to 20,160 of them, is measured by `python -m benchmarks.scaling`.

## Memory

What a job holds of a model at once is about six times its weights. Where that is more than `--max-memory` says, or more
than three quarters of what the system has free when nothing is said, memory is *short*, and `inspect`, `optimize`,
`apply` and `validate` work otherwise:

* a model runs piece by piece: one stretch of nodes after another, each a session of its own that reads its weights from
  the file that they lie in; answers differ from those of a whole session by float rounding;
* weights stay in the model's file until something looks at them, and pages that were looked at are given back;
* arrays that a pass makes lie in a temporary file (`TMPDIR`; as many bytes as the edited weights);
* nothing is timed: a clock needs the whole model. The report says so, forms that are there for speed are taken on
  trust, and a goal (`--speedup`, `--latency`, `--size`, `--best`) is refused with exit code 2.

The result has the same bytes as with more memory, where no clock decides.

A decoder of pre-norm layers (width 2048, 16 heads, 8192 hidden units, 16,000 words, random float32 weights, external
data) went through one command after another with `{limit}`. *Peak* is the largest resident set that
the kernel saw of the process; *alone* the most that lay in memory alone, *mapped* the most that was mapped from files,
which the system may drop whenever it wants to; both are looked at every few milliseconds, and each is largest at a
time of its own. The program itself (Python, numpy, scipy, onnx, onnxruntime) takes part of each.

"""

_TAIL = """
## Time

{linear}

## Counted

Written by `python -m benchmarks.robustness`, `python -m benchmarks.packaging` and `python -m benchmarks.cluster`.

{counted}

## What it does not do

* `time`, `sweep` and a goal time whole models, and a clock that opens them piece by piece would tell nothing: goals are
  refused where memory is short, and `sweep` has no `--max-memory`. `recover` and `train` have none either: weights,
  their gradients and two moments each are alive in torch at once, four times the float model. `check` opens whole
  sessions.
* That packed weights are decoded at load is proved piece by piece where memory is short; whoever opens the packed file
  later opens it whole, and needs room for it as it is decoded.
* A page (`--html`) has no profile by operator where memory is short, since that is one of a whole session.
* `--max-memory` bounds what sessions, arrays and mapped pages take, not the process: single weights, activations and
  the program itself come on top, as the column *peak* says.
* A weight that reads more than {columns} inputs is solved without looking at them, and the report says so.
* One weight alone may take more than `--max-memory`: it is mapped, and read as a whole where it is multiplied.
* Cuts that look at samples (`score=obs`, `refit=yes`) run the model anew for each site, so their time grows with the
  square of its depth; cuts by magnitude are linear, as measured above.
* A message holds 2 GiB; what is larger gets a data file beside it, as what had one before does.
* Local functions are inlined; of sequences, maps and optional values nothing is cut.
* Control-flow bodies are run and stored, but units inside them are not cut.
"""


def page(rows: Sequence[Mapping[str, Any]], limit: str = "--max-memory 512MB") -> str:
    """The page."""
    sizes = sorted({row["size"] for row in rows})
    steps = list(dict.fromkeys(row["step"] for row in sorted(rows, key=lambda row: row["size"], reverse=True)))
    held = {(row["size"], row["step"]): row for row in rows}
    # By its code: of several versions the one that measured most is the present one's, or nearest to it.
    versions = Counter(row.get("code", "") for row in rows)
    newest = max((one for one in versions if one), key=lambda one: versions[one], default="")
    head = ["step", "model", "peak", "share of the model", "alone", "mapped", "wall time", "processor time"]
    body = [
        [
            step if row.get("code", "") == newest else f"{step} †",
            f"{row['model_bytes'] / _GIB:.2f} GiB",
            f"{row['peak_bytes'] / _GIB:.2f} GiB",
            f"{row['peak_bytes'] / row['model_bytes']:.2f}",
            f"{row['anonymous_bytes'] / _GIB:.2f} GiB",
            f"{row['mapped_bytes'] / _GIB:.2f} GiB",
            f"{row['seconds']:.0f} s",
            f"{row['cpu_seconds']:.0f} s",
        ]
        for step in steps
        for size in sizes
        if (row := held.get((size, step))) is not None
    ]
    said = [
        f"{step}: {held[sizes[-1], step]['said']}"
        for step in steps
        if sizes and step != "apply" and held.get((sizes[-1], step), {}).get("said")
    ]
    verdicts = "\nWhat the reports said of the largest model:\n\n" + "\n".join(f"* {line}" for line in said) + "\n"
    tail = _TAIL.format(linear=_linear(sizes, steps, held), columns="8,192", counted=_counted(Path(__file__).parent))
    older = "\n† measured with an earlier version\n" if any("†" in cells[0] for cells in body) else ""
    return _HEAD.format(limit=limit) + tables.table(head, body) + "\n" + older + verdicts + tail


def _counted(folder: Path) -> str:
    """What other benchmarks have counted, a row each with how to repeat it."""

    def held(name: str) -> Any:
        path = folder / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    robust, packed, shared = held("robustness"), held("packaging"), held("cluster")
    rows: list[list[str]] = []
    words = {"test_models.py": "models", "test_plans.py": "plans", "test_samples.py": "sample files"}
    words |= {"test_specs.py": "specs and options"}
    for one in robust.get("fuzz", []):
        what = f"damaged or hostile {words.get(one['file'], one['file'])}"
        rows.append(
            [what, f"{one['cases']:,} cases, {_failures(one)}", f"`pytest -m nightly tests/fuzz/{one['file']}`"]
        )
    if robust.get("fuzz"):
        whole = sum(one["cases"] for one in robust["fuzz"])
        rows.append(["fuzzed in all", f"{whole:,} cases, the first of them in `make test`", "`make nightly`"])
    for one in robust.get("determinism", []):
        what = "same bytes from other processes, hash seeds and numbers of threads"
        rows.append([what, f"{one['cases']} jobs run twice, {_failures(one)}", f"`pytest tests/{one['file']}`"])
    for one in robust.get("pages", []):
        seen = "" if "complaints" not in one else _seen(one)
        figure = f"{one['bytes'] / 1000:.0f} kB of 2 MB{seen}"
        what = f"page of `{one['command']}`, fixtures/{one['fixture']}"
        rows.append([what, figure, "`python -m benchmarks.robustness --only pages`"])
    for one in packed.get("rows", []):
        works = "why" not in one and not one["script"] and not one["module"]
        figure = "installs and runs" if works else str(one.get("why", "fails"))
        rows.append([f"{one['file']} on Python {one['python']}", figure, "`python -m benchmarks.packaging`"])
    if "import" in packed:
        figure = f"{1000 * packed['import']['import_s']:.0f} ms"
        rows.append(["`import onnxprune`", figure, "`python -m benchmarks.packaging --imports`"])
    for one in shared.get("rows", []):
        if "same_front" in one:
            same = "the same front and plans" if one["same_front"] and one["same_bytes"][0] else "another front"
            what = f"sweep of {one['trials']} points, fixtures/{shared['fixture']}: {one['run']}"
            rows.append([what, f"{same} as in one process", "[cluster.md](../benchmarks/cluster.md)"])
    return tables.table(["what", "figure", "repeat it"], rows)


def _failures(one: Mapping[str, Any]) -> str:
    return "none fails" if not one["failed"] else f"{one['failed']} fail"


def _seen(one: Mapping[str, Any]) -> str:
    return f"; in Chromium {one['complaints']} complaints on the console, {one['requests']} requests outside"


def _linear(sizes: Sequence[str], steps: Sequence[str], held: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    """How processor time grows from one size to the next."""
    if len(sizes) < 2:
        return "Only one size has been measured."
    head = ["step", *(f"processor seconds a GiB at {size}" for size in sizes)]
    body = []
    for step in steps:
        found = [held.get((size, step)) for size in sizes]
        body.append(
            [step, *("" if row is None else f"{row['cpu_seconds'] / (row['model_bytes'] / _GIB):.1f}" for row in found)]
        )
    text = "Linear is the same number in each column; starting the program costs each about a second.\n\n"
    return text + tables.table(head, body)
