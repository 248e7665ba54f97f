"""Broken models, one for each rule that needs no option: rule id -> what writes the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests import graphs

WIDTH = graphs.WIDTH
Writer = Callable[[Path], Path]


def good() -> onnx.ModelProto:
    """A feed-forward block with named nodes: nothing to object to."""
    return named(graphs.feed_forward())


def named(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a name at each node."""
    for at, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{at}"
    return proto


def changed(change: Callable[[onnx.ModelProto], None], proto: Callable[[], onnx.ModelProto] = good) -> Writer:
    """A model with one thing done to it."""

    def write(folder: Path) -> Path:
        made = proto()
        change(made)
        return graphs.saved(made, folder)

    return write


def weight(proto: onnx.ModelProto, name: str, change: Callable[[graphs.Array], graphs.Array]) -> None:
    """Replace the numbers of an initializer."""
    for tensor in proto.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))


def numbers(name: str, change: Callable[[graphs.Array], graphs.Array]) -> Writer:
    """The good model with other numbers in one weight."""
    return changed(lambda proto: weight(proto, name, change))


def _first(value: float) -> Callable[[graphs.Array], graphs.Array]:
    def change(array: graphs.Array) -> graphs.Array:
        array.reshape(-1)[0] = value
        return array

    return change


def _text(folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_text("# A model\n\nIt is on the other disk.\n")
    return path


def _external(folder: Path, location: str) -> Path:
    proto = good()
    onnx.external_data_helper.convert_model_to_external_data(proto, location="model.data", size_threshold=0)
    path = graphs.saved(proto, folder)
    again = onnx.load(path, load_external_data=False)
    for tensor in again.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(again.SerializeToString())
    return path


def _outside(folder: Path) -> Path:
    inner = folder / "inner"
    inner.mkdir()
    path = _external(inner, "../model.data")
    (inner / "model.data").rename(folder / "model.data")
    return path


def _cut_data(folder: Path) -> Path:
    path = _external(folder, "model.data")
    data = folder / "model.data"
    data.write_bytes(data.read_bytes()[:1000])
    return path


def _node(op: str, inputs: list[str], outputs: list[str], **attributes: object) -> onnx.NodeProto:
    return graphs.node(op, inputs, outputs, name=f"{op}_{outputs[0]}", **attributes)


def _model(nodes: list[onnx.NodeProto], constants: dict[str, graphs.Array], **options: int) -> onnx.ModelProto:
    """X [batch, 64] to y [batch, 64]."""
    shape = ("batch", WIDTH)
    return graphs.model(nodes, [graphs.info("x", shape)], [graphs.info("y", shape)], constants, **options)  # type: ignore[arg-type]


def _logarithm() -> onnx.ModelProto:
    nodes = [_node("Neg", ["s"], ["n"]), _node("Log", ["n"], ["y"])]
    nodes.insert(0, _node("Exp", ["x"], ["s"]))
    return _model(nodes, {})


def _reshape_that_fits_no_input() -> onnx.ModelProto:
    nodes = [_node("Reshape", ["x", "to"], ["r"]), _node("MatMul", ["r", "w"], ["y"])]
    return _model(nodes, {"to": np.array([7, 9]), "w": graphs.weights(9, WIDTH)})


def _domain(name: str, *, imported: bool) -> onnx.ModelProto:
    proto = _model([_node("Relu", ["x"], ["r"]), _node("Frobnicate", ["r"], ["y"], domain=name)], {})
    if imported:
        proto.opset_import.append(helper.make_opsetid(name, 1))
    return proto


def _training() -> onnx.ModelProto:
    constants = {"ratio": np.array(0.5, np.float32), "on": np.array(True)}
    return _model([_node("Dropout", ["x", "ratio", "on"], ["y"])], constants)


def _double() -> onnx.ModelProto:
    nodes = [
        _node("Cast", ["x"], ["d"], to=TensorProto.DOUBLE),
        _node("MatMul", ["d", "w"], ["m"]),
        _node("Cast", ["m"], ["y"], to=TensorProto.FLOAT),
    ]
    return _model(nodes, {"w": graphs.weights(WIDTH, WIDTH, dtype=np.float64)})


def _half() -> onnx.ModelProto:
    nodes = [
        _node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        _node("Mul", ["h", "large"], ["big"]),
        _node("Mul", ["big", "small"], ["m"]),
        _node("Cast", ["m"], ["y"], to=TensorProto.FLOAT),
    ]
    constants = {"large": np.full(WIDTH, 2e4, np.float16), "small": np.full(WIDTH, 1e-4, np.float16)}
    return _model(nodes, constants)


def _twice(proto: onnx.ModelProto) -> None:
    """A second pair of layers with the first one's numbers."""
    graph = proto.graph
    copies = []
    for tensor in graph.initializer:
        copy = onnx.TensorProto.FromString(tensor.SerializeToString())
        copy.name = f"{tensor.name}.again"
        copies.append(copy)
    graph.initializer.extend(copies)
    nodes = []
    for node in graph.node:
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        copy.name = f"{node.name}.again"
        inputs = [f"{name}.again" if name != "x" else "y" for name in node.input]
        outputs = [f"{name}.again" for name in node.output]
        del copy.input[:], copy.output[:]
        copy.input.extend(inputs)
        copy.output.extend(outputs)
        nodes.append(copy)
    graph.node.extend(nodes)
    graph.output[0].name = "y.again"


def _constant_node(proto: onnx.ModelProto) -> None:
    graph = proto.graph
    graph.initializer.append(numpy_helper.from_array(graphs.weights(WIDTH, 512), "wide"))
    tensor = graph.initializer[-1]
    graph.node.insert(0, helper.make_node("Constant", [], ["wide"], name="held", value=tensor))
    del graph.initializer[-1]
    graph.node.append(_node("MatMul", ["y", "wide"], ["z"]))
    graph.output[0].CopyFrom(graphs.info("z", ("batch", "sequence", 512)))


def _overridable(proto: onnx.ModelProto) -> None:
    proto.graph.input.append(graphs.info("up", (WIDTH, 96)))


def _duplicate_tensor(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(_node("Relu", ["x"], ["r"]))


def _dead_end(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(_node("Relu", ["x"], ["nowhere"]))


def _stack_traces(proto: onnx.ModelProto) -> None:
    entry = proto.graph.node[0].metadata_props.add()
    entry.key, entry.value = "stack_trace", "File model.py, line 1\n" * 10_000


def _quantized_twice() -> onnx.ModelProto:
    nodes = []
    source = "x"
    for at in range(2):
        nodes.append(_node("QuantizeLinear", [source, f"s{at}", "zero"], [f"q{at}"]))
        nodes.append(_node("DequantizeLinear", [f"q{at}", f"s{at}", "zero"], [f"d{at}"]))
        source = f"d{at}"
    nodes.append(_node("MatMul", [source, "w"], ["y"]))
    constants: dict[str, graphs.Array] = {f"s{at}": np.array(0.03 + at / 100, np.float32) for at in range(2)}
    return _model(nodes, {**constants, "zero": np.array(128, np.uint8), "w": graphs.weights(WIDTH, WIDTH)})


def _rounded_at_load() -> onnx.ModelProto:
    nodes = [
        _node("QuantizeLinear", ["w", "s", "zero"], ["q"]),
        _node("DequantizeLinear", ["q", "s", "zero"], ["d"]),
        _node("MatMul", ["x", "d"], ["y"]),
    ]
    constants = {"w": graphs.weights(WIDTH, WIDTH), "s": np.array(0.01, np.float32), "zero": np.array(0, np.int8)}
    return _model(nodes, constants)


def _small_product() -> onnx.ModelProto:
    nodes = [
        _node("MatMul", ["x", "down"], ["d"]),
        _node("DynamicQuantizeLinear", ["d"], ["q", "s", "z"]),
        _node("MatMulInteger", ["q", "w", "z"], ["i"]),
        _node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        _node("Mul", ["f", "s"], ["y"]),
    ]
    return _model(nodes, {"down": graphs.weights(WIDTH, 4), "w": np.ones((4, WIDTH), np.int8)})


def _softmax() -> onnx.ModelProto:
    nodes = []
    source = "x"
    for at, op in enumerate(("Softmax", "")):
        nodes.append(_node("QuantizeLinear", [source, "s", "zero"], [f"q{at}"]))
        nodes.append(_node("DequantizeLinear", [f"q{at}", "s", "zero"], [f"d{at}"]))
        source = f"d{at}"
        if op:
            nodes.append(_node(op, [source], ["p"]))
            source = "p"
    nodes.append(_node("Relu", [source], ["y"]))
    return _model(nodes, {"s": np.array(0.03, np.float32), "zero": np.array(0, np.uint8)})


def _bias_steps() -> onnx.ModelProto:
    def pair(name: str, scale: str, zero: str) -> list[onnx.NodeProto]:
        return [_node("DequantizeLinear", [name, scale, zero], [f"{name}.d"])]

    nodes = [
        _node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        *pair("q", "xs", "xz"),
        *pair("w", "ws", "wz"),
        *pair("b", "bs", "bz"),
        _node("Gemm", ["q.d", "w.d", "b.d"], ["y"]),
    ]
    constants: dict[str, graphs.Array] = {
        "xs": np.array(0.02, np.float32),
        "xz": np.array(128, np.uint8),
        "w": np.ones((WIDTH, WIDTH), np.int8),
        "ws": np.array(0.01, np.float32),
        "wz": np.array(0, np.int8),
        "b": np.ones(WIDTH, np.int32),
        # 0.02 · 0.01 = 2e-4 is right.
        "bs": np.array(3e-4, np.float32),
        "bz": np.array(0, np.int32),
    }
    return _model(nodes, constants)


def _saturating() -> onnx.ModelProto:
    # Two terms of 255·127 are 64770, of which 16 bits hold 32767: about half of each sum is lost.
    nodes = [
        _node("Mul", ["x", "tenth"], ["t"]),
        _node("Exp", ["t"], ["p"]),
        _node("DynamicQuantizeLinear", ["p"], ["q", "s", "z"]),
        _node("MatMulInteger", ["q", "w", "z"], ["i"]),
        _node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        _node("Mul", ["f", "s"], ["y"]),
    ]
    # All activations lie near their largest.
    tenth = np.array(0.1, np.float32)
    return _model(nodes, {"tenth": tenth, "w": np.full((WIDTH, WIDTH), 127, np.int8)})


def _mostly_zeros(array: graphs.Array) -> graphs.Array:
    keep = np.random.default_rng(0).random(array.shape) < 0.2
    return np.asarray(array * keep)


def _newer(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].version = 999


def _clear_name(proto: onnx.ModelProto) -> None:
    proto.graph.node[1].name = ""


def _same_name(proto: onnx.ModelProto) -> None:
    proto.graph.node[1].name = proto.graph.node[0].name


def _spare_initializer(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(7, np.float32), "spare"))


def _nameless_initializer(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(7, np.float32), ""))


def _spare_input(proto: onnx.ModelProto) -> None:
    proto.graph.input.append(graphs.info("idle", ("batch",)))


def _wrong_shape(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].CopyFrom(graphs.info("y", ("batch", "sequence", WIDTH + 1)))


def _mixed_types(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64


def _unknown_operator(proto: onnx.ModelProto) -> None:
    proto.graph.node[2].op_type = "Rellu"


BROKEN: dict[str, Writer] = {
    "not-a-model": _text,
    "external-data-outside": _outside,
    "external-data-missing": lambda folder: _external(folder, "gone.data"),
    "checker-error": changed(_wrong_shape),
    "invalid-graph": lambda folder: graphs.saved(_no_such_type(), folder),
    "does-not-load": changed(_mixed_types),
    "does-not-run": lambda folder: graphs.saved(_reshape_that_fits_no_input(), folder),
    "output-not-finite": lambda folder: graphs.saved(_logarithm(), folder),
    "unsupported-opset": changed(_newer),
    "unknown-domain": lambda folder: graphs.saved(_domain("org.example", imported=True), folder),
    "missing-opset-import": lambda folder: graphs.saved(_domain("com.microsoft", imported=False), folder),
    "unknown-operator": changed(_unknown_operator),
    "training-mode": lambda folder: graphs.saved(_training(), folder),
    "unnamed-node": changed(_clear_name),
    "duplicate-node-name": changed(_same_name),
    "unnamed-tensor": changed(_nameless_initializer),
    "duplicate-tensor-name": changed(_duplicate_tensor),
    "unused-initializer": changed(_spare_initializer),
    "unused-input": changed(_spare_input),
    "unused-node": changed(_dead_end),
    "duplicated-weights": changed(_twice),
    "dense-zeros": numbers("up", _mostly_zeros),
    "float64": lambda folder: graphs.saved(_double(), folder),
    "constant-node-weights": changed(_constant_node),
    "heavy-metadata": changed(_stack_traces),
    "overridable-initializer": changed(_overridable),
    "nan-weight": numbers("up", _first(np.nan)),
    "infinite-weight": numbers("down", _first(np.inf)),
    "float16-overflow": lambda folder: graphs.saved(_half(), folder),
    "subnormal-weight": numbers("down", lambda array: array * np.float32(1e-38)),
    "dead-units": changed(lambda _: None, lambda: named(graphs.dead_units())),
    "double-quantized": lambda folder: graphs.saved(_quantized_twice(), folder),
    "float-stored-int8": lambda folder: graphs.saved(_rounded_at_load(), folder),
    "small-int8-product": lambda folder: graphs.saved(_small_product(), folder),
    "quantized-softmax": lambda folder: graphs.saved(_softmax(), folder),
    "saturation": lambda folder: graphs.saved(_saturating(), folder),
    "bias-scale": lambda folder: graphs.saved(_bias_steps(), folder),
}


def _no_such_type() -> onnx.ModelProto:
    proto = good()
    proto.graph.initializer[0].data_type = 99
    return proto
