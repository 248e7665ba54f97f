"""Time of each step as graphs grow: a synthetic transformer of up to 20,000 nodes.

    python -m benchmarks.scaling [--folder benchmarks]

Writes `scaling.md`. One thread; the growth of a step from one size to the next says whether it is linear.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks import tables
from onnxprune.cut import remove_units
from onnxprune.model import load, save
from onnxprune.passes import Simplify
from onnxprune.protocol import Context
from onnxprune.runtime import observe_shapes
from onnxprune.sites import find_sites
from onnxprune.structure import read_structure

_WIDTH, _HEADS, _HIDDEN = 16, 4, 32
_SIZES = (60, 240, 960)


def transformer(layers: int, width: int = _WIDTH, heads: int = _HEADS, hidden: int = _HIDDEN) -> onnx.ModelProto:
    """Return pre-norm layers of attention and feed-forward with random weights."""
    random = np.random.default_rng(0)
    nodes, weights = [], [numpy_helper.from_array(np.array([0, 0, heads, -1], np.int64), "split")]
    weights.append(numpy_helper.from_array(np.array([0, 0, -1], np.int64), "merge"))

    def weight(name: str, *shape: int) -> str:
        values = random.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[0]))
        weights.append(numpy_helper.from_array(values, name))
        return name

    def add(op: str, inputs: list[str], name: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    stream = "x"
    for at in range(layers):
        p = f"{at}."
        gain = weight(f"{p}gain", width)
        normed = add("LayerNormalization", [stream, gain], f"{p}n1")
        parts = []
        for part, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
            made = add("MatMul", [normed, weight(f"{p}w{part}", width, width)], f"{p}{part}")
            made = add("Reshape", [made, "split"], f"{p}{part}h")
            parts.append(add("Transpose", [made], f"{p}{part}t", perm=order))
        scores = add("Softmax", [add("MatMul", parts[:2], f"{p}s")], f"{p}p", axis=-1)
        mixed = add("Transpose", [add("MatMul", [scores, parts[2]], f"{p}o")], f"{p}ot", perm=[0, 2, 1, 3])
        mixed = add("Reshape", [mixed, "merge"], f"{p}or")
        out = add("MatMul", [mixed, weight(f"{p}wo", width, width)], f"{p}a")
        stream = add("Add", [stream, out], f"{p}x1")
        up = add("MatMul", [stream, weight(f"{p}up", width, hidden)], f"{p}u")
        active = add("Relu", [up], f"{p}r")
        down = add("MatMul", [active, weight(f"{p}down", hidden, width)], f"{p}d")
        stream = add("Add", [stream, down], f"{p}x2")
    shape = ["batch", "sequence", width]
    graph = helper.make_graph(
        nodes,
        "scaling",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(stream, TensorProto.FLOAT, shape)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def steps(path: Path) -> Iterator[tuple[str, float]]:
    """Yield each step's name and seconds."""
    clock = time.perf_counter()

    def lap() -> float:
        nonlocal clock
        now = time.perf_counter()
        taken, clock = now - clock, now
        return taken

    model = load(path)
    yield "load", lap()
    one = Simplify()
    model, _ = one.apply(model, one.propose(model, (), Context()).edits)
    yield "simplify", lap()
    feeds = [{"x": np.ones((batch, length, _WIDTH), np.float32)} for batch, length in ((3, 5), (5, 7))]
    shapes = observe_shapes(model, feeds)
    yield "observe shapes (onnxruntime)", lap()
    structure = read_structure(model, shapes)
    yield "trace", lap()
    find_sites(model, structure)
    yield "sites", lap()
    copy = model.copy()
    removals = {d.index: (0,) for d in structure.dimensions.prunable if d.kind in {"heads", "neurons"}}
    remove_units(copy.graph, structure.dimensions, removals, shapes)
    yield "cut every site", lap()
    save(copy, path.with_name("cut.onnx"))
    yield "save", lap()


def main(arguments: list[str]) -> int:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    asked = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    taken: list[dict[str, float]] = []
    counts = []
    with tempfile.TemporaryDirectory() as folder:
        for layers in _SIZES:
            proto = transformer(layers)
            counts.append(len(proto.graph.node))
            path = Path(folder) / "model.onnx"
            onnx.save(proto, path)
            taken.append(dict(steps(path)))
            print(counts[-1], {name: round(seconds, 2) for name, seconds in taken[-1].items()}, flush=True)
    head = ["step", *(f"{count:,} nodes" for count in counts), "last growth"]
    growth = counts[-1] / counts[-2]
    rows = [
        [name, *(f"{one[name]:.2f} s" for one in taken), f"{taken[-1][name] / taken[-2][name]:.1f} x"]
        for name in taken[0]
    ]
    page = (
        "# Scaling\n\nWritten by `python -m benchmarks.scaling`, one thread. "
        f"Linear is {growth:.1f} x from the second last size to the last.\n\n"
    )
    (asked.folder / "scaling.md").write_text(page + tables.table(head, rows) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
