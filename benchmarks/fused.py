"""What the runtime's fused operators are worth on MiniLM in int8: each written by hand into one file and raced.

    python -m benchmarks.fused [FILE.onnx] [--rounds 40] [--only NAME ...] [--folder benchmarks]

FILE is MiniLM after the default pipeline less `streamline`; without it, it is made. Writes `fused.json`, and `fused.md`
from it, after each race; a form that the .json holds is not raced again. Each form stands beside the file itself in a
race of its own.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from benchmarks import paired, script, tasks
from benchmarks.ceiling import optimized
from benchmarks.sessions import open_session
from benchmarks.tables import table

_MODEL = "minilm-dynamo-eager"
_CONTRIB = "com.microsoft"
_HEADS = 12


class Graph:
    """A file's graph, edited by name."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}

    def made(self, name: str) -> onnx.NodeProto:
        """What makes a tensor."""
        return next(node for node in self.nodes if name in node.output)

    def read(self, name: str) -> list[onnx.NodeProto]:
        """What reads a tensor."""
        return [node for node in self.nodes if name in node.input]

    def all(self, op: str) -> list[onnx.NodeProto]:
        """The nodes of one operator."""
        return [node for node in self.nodes if node.op_type == op]

    def array(self, name: str) -> Any:
        """A constant's values."""
        return numpy_helper.to_array(self.constants[name])

    def constant(self, name: str, values: Any) -> str:
        """A new constant."""
        self.constants[name] = numpy_helper.from_array(np.asarray(values), name)
        return name

    def swap(self, old: onnx.NodeProto, *new: onnx.NodeProto) -> None:
        """Put nodes in place of one."""
        self.nodes.remove(old)
        self.nodes += new

    def back(self, name: str) -> str:
        """What a tensor is before it is transposed and reshaped."""
        node = self.made(name)
        while node.op_type in {"Reshape", "Transpose"}:
            name = node.input[0]
            node = self.made(name)
        return name

    def finished(self) -> onnx.ModelProto:
        """The model, its nodes sorted and those that nothing reads gone."""
        held = {value.name for value in self.model.graph.output}
        alive: list[onnx.NodeProto] = []
        wanted, rest = set(held), list(self.nodes)
        while found := [node for node in rest if wanted & {*node.output}]:
            alive += found
            rest = [node for node in rest if node not in found]
            wanted |= {name for node in found for name in node.input}
        known = {"", *self.constants, *(value.name for value in self.model.graph.input)}
        ordered: list[onnx.NodeProto] = []
        while alive:
            ready = [node for node in alive if known.issuperset(node.input)]
            ordered += ready
            known |= {name for node in ready for name in node.output}
            alive = [node for node in alive if node not in ready]
        del self.model.graph.node[:], self.model.graph.initializer[:], self.model.graph.value_info[:]
        self.model.graph.node.extend(ordered)
        used = {name for node in ordered for name in node.input}
        self.model.graph.initializer.extend(tensor for name, tensor in self.constants.items() if name in used)
        domains = {entry.domain for entry in self.model.opset_import}
        if _CONTRIB not in domains:
            self.model.opset_import.append(helper.make_opsetid(_CONTRIB, 1))
        return self.model


class Linear:
    """MatMulInteger, Cast, Mul, Add: an integer product as `sparse-int8` writes it."""

    def __init__(self, graph: Graph, product: onnx.NodeProto) -> None:
        self.product = product
        (cast,) = graph.read(product.output[0])
        (scaled,) = graph.read(cast.output[0])
        (self.biased,) = graph.read(scaled.output[0])
        steps = graph.made(next(name for name in scaled.input if name != cast.output[0]))
        self.scale = next(name for name in steps.input if name in graph.constants)
        self.step = next(name for name in steps.input if name not in graph.constants)
        self.bias = next(name for name in self.biased.input if name in graph.constants)
        self.output = self.biased.output[0]


def attentions(graph: Graph) -> list[dict[str, Any]]:
    """The tensors of each attention."""
    found = []
    for softmax in graph.all("Softmax"):
        masked = graph.made(softmax.input[0])
        scaled = graph.made(masked.input[0])
        scores = graph.made(scaled.input[0])
        (weighed,) = graph.read(softmax.output[0])
        (turned,) = graph.read(weighed.output[0])
        (joined,) = graph.read(turned.output[0])
        found.append({
            "scores": scores, "weighed": weighed, "joined": joined, "mask": masked.input[1],
            "scale": float(graph.array(scaled.input[1])),
            "qkv": [graph.back(name) for name in (*scores.input, weighed.input[1])],
        })  # fmt: skip
    return found


def one_operator(graph: Graph, operator: str) -> None:
    """Attention as one operator: the standard's, or onnxruntime's MultiHeadAttention."""
    for one in attentions(graph):
        if operator == "Attention":
            inputs, heads, domain = [*one["qkv"], one["mask"]], {"q_num_heads": _HEADS, "kv_num_heads": _HEADS}, ""
        else:
            inputs, heads, domain = [*one["qkv"], "", "", one["mask"]], {"num_heads": _HEADS}, _CONTRIB
        node = helper.make_node(
            operator, inputs, list(one["joined"].output), domain=domain, scale=one["scale"], **heads
        )
        graph.swap(one["joined"], node)
    for entry in graph.model.opset_import:
        if operator == "Attention" and entry.domain == "":
            entry.version = 23
            graph.model.ir_version = max(graph.model.ir_version, 11)


def quantized_attention(graph: Graph) -> None:
    """QAttention: three integer products, the attention and the mask of keys, all in one."""
    linears = {linear.output: linear for linear in (Linear(graph, node) for node in graph.all("MatMulInteger"))}
    for at, one in enumerate(attentions(graph)):
        three = [linears[name] for name in one["qkv"]]
        weight, scale, bias = _joined(graph, f"q{at}", three)
        zeros = graph.constant(f"q{at}.zeros", np.zeros(graph.array(bias).shape, np.int8))
        mask = helper.make_node("Cast", ["attention_mask"], [f"q{at}.mask"], to=onnx.TensorProto.INT32)
        first = three[0].product
        inputs = [first.input[0], weight, bias, three[0].step, scale, f"q{at}.mask", first.input[2], zeros]
        node = helper.make_node("QAttention", inputs, list(one["joined"].output), domain=_CONTRIB, num_heads=_HEADS)
        graph.swap(one["joined"], mask, node)


def merged(graph: Graph) -> None:
    """Linears that read one quantized activation as one product, its result split."""
    groups: dict[str, list[Linear]] = {}
    for node in graph.all("MatMulInteger"):
        groups.setdefault(node.input[0], []).append(Linear(graph, node))
    for at, linears in enumerate(group for group in groups.values() if len(group) > 1):
        weight, scale, bias = _joined(graph, f"m{at}", linears)
        sizes = graph.constant(f"m{at}.sizes", np.array([graph.array(one.bias).size for one in linears], np.int64))
        first = linears[0].product
        new = [
            helper.make_node("MatMulInteger", [first.input[0], weight, first.input[2]], [f"m{at}.int32"]),
            helper.make_node("Cast", [f"m{at}.int32"], [f"m{at}.float"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", [linears[0].step, scale], [f"m{at}.steps"]),
            helper.make_node("Mul", [f"m{at}.float", f"m{at}.steps"], [f"m{at}.scaled"]),
            helper.make_node("Add", [f"m{at}.scaled", bias], [f"m{at}.all"]),
            helper.make_node("Split", [f"m{at}.all", sizes], [one.output for one in linears], axis=-1),
        ]
        for one in linears[1:]:
            graph.nodes.remove(one.biased)
        graph.swap(linears[0].biased, *new)


def _joined(graph: Graph, name: str, linears: Sequence[Linear]) -> tuple[str, str, str]:
    parts = {
        "weight": np.concatenate([graph.array(one.product.input[1]) for one in linears], axis=1),
        "scale": np.concatenate([graph.array(one.scale) for one in linears]),
        "bias": np.concatenate([graph.array(one.bias) for one in linears]),
    }
    weight, scale, bias = (graph.constant(f"{name}.{part}", values) for part, values in parts.items())
    return weight, scale, bias


def fixed_steps(graph: Graph) -> None:
    """Activations on the grid that the timed sample has shown, in the operator that the runtime fuses to."""
    linears = [Linear(graph, node) for node in graph.all("MatMulInteger")]
    names = sorted({name for one in linears for name in (one.step, one.product.input[2])})
    shown = onnx.ModelProto()
    shown.CopyFrom(graph.model)
    shown.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shown.onnx"
        onnx.save(shown, path)
        values = dict(zip(names, open_session(path).run(names, tasks.feed(_MODEL)), strict=True))
    fixed = {name: graph.constant(f"{name}.fixed", values[name]) for name in names}
    for one in linears:
        numbers, weight, zero = one.product.input
        inputs = [numbers, weight, fixed[one.step], one.scale, fixed[zero], "", one.bias]
        graph.swap(one.biased, helper.make_node("MatMulIntegerToFloat", inputs, [one.output], domain=_CONTRIB))
    for node in graph.all("DynamicQuantizeLinear"):
        inputs = [node.input[0], fixed[node.output[1]], fixed[node.output[2]]]
        graph.swap(node, helper.make_node("QuantizeLinear", inputs, [node.output[0]]))


def integer_attention(graph: Graph, *, both: bool) -> None:
    """Scores, and the product with values where `both`, between activations that are quantized at run time."""
    for one in attentions(graph):
        for node in [one["scores"], one["weighed"]] if both else [one["scores"]]:
            (name,) = node.output
            sides = [[f"{name}.{side}{part}" for part in ("", ".step", ".zero")] for side in "ab"]
            new = [
                helper.make_node("DynamicQuantizeLinear", [read], side)
                for read, side in zip(node.input, sides, strict=True)
            ]
            inputs = [part for pair in zip(*sides, strict=True) for part in pair]
            graph.swap(node, *new, helper.make_node("MatMulIntegerToFloat", inputs, [name], domain=_CONTRIB))


def skip_norms(graph: Graph) -> None:
    """Residual sums and the norms behind them as SkipLayerNormalization."""
    for norm in graph.all("LayerNormalization"):
        added = next((node for node in graph.nodes if norm.input[0] in node.output), None)
        if added is None or added.op_type != "Add" or len(graph.read(added.output[0])) != 1:
            continue
        epsilon = next(entry.f for entry in norm.attribute if entry.name == "epsilon")
        inputs = [*added.input, norm.input[1], norm.input[2]]
        node = helper.make_node("SkipLayerNormalization", inputs, list(norm.output), domain=_CONTRIB, epsilon=epsilon)
        graph.swap(norm, node)


FORMS: dict[str, Callable[[Graph], None]] = {
    "Attention (opset 23)": lambda graph: one_operator(graph, "Attention"),
    "MultiHeadAttention": lambda graph: one_operator(graph, "MultiHeadAttention"),
    "QAttention": quantized_attention,
    "Q, K and V in one product": merged,
    "Attention, and one product": lambda graph: (merged(graph), one_operator(graph, "Attention"))[0],
    "fixed activation steps": fixed_steps,
    "integer scores": lambda graph: integer_attention(graph, both=False),
    "integer scores and values": lambda graph: integer_attention(graph, both=True),
    "SkipLayerNormalization": skip_norms,
}


def raced(path: Path, name: str, rounds: int) -> dict[str, Any]:
    """Return a form's figures beside the file's, and how far its output moved."""
    moved, timing = beside(path, FORMS[name], _MODEL, rounds)
    return {"form": name, "moved": moved, **{key: value for key, value in asdict(timing).items() if key != "file"}}


def beside(path: Path, edit: Callable[[Graph], None], model: str, rounds: int) -> tuple[float, paired.Timing]:
    """Edit a file, run and race both: the largest move of the first output as a share of it, and the new one's figures.

    Args:
        path: the file, which stays as it is.
        edit: writes a form into it.
        model: whose input is run.
        rounds: of the race.
    """
    graph = Graph(onnx.load(path))
    edit(graph)
    feed = tasks.feed(model)
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "form.onnx"
        onnx.save(graph.finished(), other)
        first, second = (open_session(each).run(None, feed)[0] for each in (path, other))
        timing = paired.race([path, other], [feed], rounds=rounds).timings()[1]
    return float(np.abs(first - second).max() / np.abs(first).max()), timing


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    rows = [
        (row["form"], f"{row['speedup']:.3f} ({row['low']:.3f} … {row['high']:.3f})", f"{row['moved']:.1e}")
        for row in result["forms"]
    ]
    return "\n\n".join([
        "# Fused operators on MiniLM in int8",
        "Generated by `python -m benchmarks.fused`; not edited by hand.",
        (
            f"{_MODEL} after the default pipeline less `streamline`, 1 x 128 tokens, one thread, {result['rounds']} "
            "rounds: each form is written into that file by hand and raced against it. Above 1 is faster. Moved: the "
            "largest difference of the outputs on the timed sample, of the largest output."
        ),
        f"{result['machine']['cpu']}; onnxruntime {result['machine']['versions']['onnxruntime']}.",
        table(("form", "times as fast", "moved"), rows),
    ]) + "\n"  # fmt: skip


def main(arguments: list[str]) -> None:
    """Race what is asked for and is not there yet; write both files after each race."""
    parser = script.options(__doc__, rounds=40)
    race_forms("fused", FORMS, raced, markdown, parser, arguments)


def race_forms(
    name: str,
    forms: Sequence[str] | dict[str, Any],
    race: Callable[[Path, str, int], dict[str, Any]],
    page: Callable[[dict[str, Any]], str],
    parser: argparse.ArgumentParser,
    arguments: list[str],
) -> None:
    """Race the forms that are asked for and that `NAME.json` does not hold, against MiniLM in int8."""
    parser.add_argument("file", type=Path, nargs="?", help="MiniLM in int8; made where it is not given")
    parser.add_argument("--only", nargs="+", default=list(forms), metavar="NAME", help="these forms")
    asked = script.read(parser, arguments)
    rows = {row["form"]: row for row in script.held(asked.folder, name).get("forms", ())}
    with tempfile.TemporaryDirectory() as scratch:
        wanted = [form for form in asked.only if form not in rows]
        file = asked.file or (optimized(_MODEL, Path(scratch))["optimize less streamline"] if wanted else None)
        for form in wanted:
            rows[form] = race(file, form, asked.rounds)
            held = [rows[one] for one in forms if one in rows]
            script.write(asked.folder, name, {"machine": script.machine(), "rounds": asked.rounds, "forms": held}, page)


if __name__ == "__main__":
    main(sys.argv[1:])
