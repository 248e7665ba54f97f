"""Whether onnxruntime packs weights better in another layout than the one that exporters and `optimize` write.

    python -m benchmarks.layouts [FILE.onnx] [--rounds 40] [--only NAME ...] [--folder benchmarks]

FILE is MiniLM after the default pipeline less `streamline`; without it, it is made. Each form is written by hand and
raced against the file that it is made of; convolutions run in blocks of channels (NCHWc) and without. Writes
`layouts.json`, and `layouts.md` from it, after each race; a form that the .json holds is not raced again.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from benchmarks import models, paired, script, tasks
from benchmarks.fused import Graph, Linear, beside, race_forms
from benchmarks.sessions import open_session
from benchmarks.tables import table

_MODEL, _CONVOLUTIONS = "minilm-dynamo-eager", "effnet-dynamo"
_WARM_UP = 5


def float_gemm(graph: Graph, *, transposed: bool) -> None:
    """MatMul and bias as Gemm over rows, the weight as it is or transposed."""
    for node in graph.all("MatMul"):
        readers = graph.read(node.output[0])
        if node.input[1] not in graph.constants or len(readers) != 1 or readers[0].op_type != "Add":
            continue
        (add,) = readers
        bias = next((name for name in add.input if name in graph.constants), None)
        if bias is None or graph.array(bias).ndim != 1:
            continue
        weight = graph.array(node.input[1])
        name = graph.constant(f"{node.output[0]}.weight", np.ascontiguousarray(weight.T if transposed else weight))
        _gemm(graph, add, node.input[0], name, bias, weight.shape, transposed=transposed)


def _gemm(
    graph: Graph, last: onnx.NodeProto, source: str, weight: str, bias: str, shape: tuple[int, int], *, transposed: bool
) -> None:
    """Put Reshape, Gemm and Reshape in place of what gives out a product; the timed batch is one."""
    out = last.output[0]
    rows = graph.constant(f"{out}.rows", np.array([-1, shape[0]], np.int64))
    back = graph.constant(f"{out}.back", np.array([1, -1, shape[1]], np.int64))
    graph.swap(
        last,
        helper.make_node("Reshape", [source, rows], [f"{out}.flat"]),
        helper.make_node("Gemm", [f"{out}.flat", weight, bias], [f"{out}.gemm"], transB=int(transposed)),
        helper.make_node("Reshape", [f"{out}.gemm", back], [out]),
    )


def standard_steps(graph: Graph, form: str) -> None:
    """Fixed activation steps in standard operators, which the runtime fuses: MatMul, Gemm, or Gemm transposed."""
    linears = [Linear(graph, node) for node in graph.all("MatMulInteger")]
    fixed = _shown(graph, sorted({name for one in linears for name in (one.step, one.product.input[2])}))
    grids = {}
    for node in graph.all("DynamicQuantizeLinear"):
        grid = [graph.constant(f"{node.input[0]}.{at}", fixed[name]) for at, name in enumerate(node.output[1:])]
        grids[node.output[0]] = grid
        graph.swap(node, helper.make_node("QuantizeLinear", [node.input[0], *grid], [node.output[0]]))
    for one in linears:
        integers, name = one.product.input[0], one.output
        values, scale = graph.array(one.product.input[1]), graph.array(one.scale)
        across = form == "Gemm, weights transposed"
        weight = graph.constant(f"{name}.weight", np.ascontiguousarray(values.T if across else values))
        zeros = graph.constant(f"{name}.zeros", np.zeros(scale.shape, np.int8))
        parts = [weight, one.scale, zeros]
        decoded = helper.make_node("DequantizeLinear", parts, [f"{name}.decoded"], axis=0 if across else 1)
        source = helper.make_node("DequantizeLinear", [integers, *grids[integers]], [f"{name}.float"])
        graph.nodes += [decoded, source]
        if form == "MatMul":
            product = helper.make_node("MatMul", [f"{name}.float", f"{name}.decoded"], [f"{name}.product"])
            graph.swap(one.biased, product, helper.make_node("Add", [f"{name}.product", one.bias], [name]))
            continue
        # As the runtime's kernel wants it: in products of both steps.
        steps = (scale * graph.array(grids[integers][0])).astype(np.float32)
        whole = graph.constant(f"{name}.bias", np.rint(graph.array(one.bias) / steps).astype(np.int32))
        scaled = graph.constant(f"{name}.bias.steps", steps)
        none = graph.constant(f"{name}.bias.zeros", np.zeros(steps.shape, np.int32))
        graph.nodes.append(helper.make_node("DequantizeLinear", [whole, scaled, none], [f"{name}.biased"], axis=0))
        # The integers are put into rows, not the floats, so that nothing stands between grid and product.
        rows = graph.constant(f"{name}.rows", np.array([-1, values.shape[0]], np.int64))
        graph.nodes.append(helper.make_node("Reshape", [integers, rows], [f"{name}.flat"]))
        source.input[0] = f"{name}.flat"
        back = graph.constant(f"{name}.back", np.array([1, -1, values.shape[1]], np.int64))
        inputs = [f"{name}.float", f"{name}.decoded", f"{name}.biased"]
        graph.swap(
            one.biased,
            helper.make_node("Gemm", inputs, [f"{name}.gemm"], transB=int(across)),
            helper.make_node("Reshape", [f"{name}.gemm", back], [name]),
        )


def _shown(graph: Graph, names: list[str]) -> dict[str, Any]:
    """Values of tensors on the timed sample."""
    shown = onnx.ModelProto()
    shown.CopyFrom(graph.model)
    shown.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shown.onnx"
        onnx.save(shown, path)
        return dict(zip(names, open_session(path).run(names, tasks.feed(_MODEL)), strict=True))


Edit = Callable[[Graph], None]
# By form: what it is made of, and how.
FORMS: dict[str, tuple[str, Edit | None]] = {
    "Gemm in place of MatMul and Add": ("fp32", lambda graph: float_gemm(graph, transposed=False)),
    "Gemm, weights transposed": ("fp32", lambda graph: float_gemm(graph, transposed=True)),
    "fixed steps, MatMul between grids": ("int8", lambda graph: standard_steps(graph, "MatMul")),
    "fixed steps, Gemm between grids": ("int8", lambda graph: standard_steps(graph, "Gemm")),
    "fixed steps, Gemm, weights transposed": ("int8", lambda graph: standard_steps(graph, "Gemm, weights transposed")),
    "filters in blocks of channels (NCHWc)": (_CONVOLUTIONS, None),
}


def raced(file: Path, name: str, rounds: int) -> dict[str, Any]:
    """Return a form's figures beside the file that it is made of, and how far its output moved."""
    base, edit = FORMS[name]
    if edit is None:
        return {"form": name, "of": f"{base}, fp32", "moved": 0.0, **_blocks(base, rounds)}
    path = file if base == "int8" else models.get(_MODEL)
    moved, timing = beside(path, edit, _MODEL, rounds)
    figures = {"speedup": timing.speedup, "low": timing.low, "high": timing.high}
    return {"form": name, "of": f"{_MODEL}, {base}", "moved": moved, **figures}


def _blocks(model: str, rounds: int) -> dict[str, Any]:
    """How many times as fast a model of convolutions is with the runtime's own layout as without."""
    feed, sessions = tasks.feed(model), []
    for level in ("ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"):
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        sessions.append(ort.InferenceSession(str(models.get(model)), options, providers=["CPUExecutionProvider"]))
    runs = np.zeros((2, rounds))
    for at in range(-_WARM_UP, rounds):
        for which in (0, 1) if at % 2 else (1, 0):
            start = time.perf_counter()
            sessions[which].run(None, feed)
            if at >= 0:
                runs[which, at] = 1e3 * (time.perf_counter() - start)
    return dict(zip(("speedup", "low", "high"), paired.paired_ratio(*runs), strict=True))


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    rows = [
        (row["form"], row["of"], f"{row['speedup']:.3f} ({row['low']:.3f} … {row['high']:.3f})", f"{row['moved']:.1e}")
        for row in result["forms"]
    ]
    return "\n\n".join([
        "# Layouts of weights",
        "Generated by `python -m benchmarks.layouts`; not edited by hand.",
        (
            f"1 x 128 tokens of MiniLM, one picture of EfficientNet-lite0, one thread, {result['rounds']} rounds: each "
            "form is written by hand and raced against what it is made of. Above 1 is faster. Moved: the largest "
            "difference of the outputs on the timed sample, of the largest output; fixed steps are that sample's."
        ),
        f"{result['machine']['cpu']}; onnxruntime {result['machine']['versions']['onnxruntime']}.",
        table(("form", "of", "times as fast", "moved"), rows),
    ]) + "\n"  # fmt: skip


def main(arguments: list[str]) -> None:
    """Race what is asked for and is not there yet; write both files after each race."""
    race_forms("layouts", FORMS, raced, markdown, script.options(__doc__, rounds=40), arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
