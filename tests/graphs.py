"""Small graphs for tests; each call makes a new one, so that no test can see another's edits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
Maker = Callable[[], onnx.ModelProto]
Change = Callable[[Array], Array]
FLOAT, FLOAT16, INT64, BOOL, STRING = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.INT64,
    TensorProto.BOOL,
    TensorProto.STRING,
)
# Below this many numbers sparse-int8 leaves a weight alone: 64 x 64 is well above.
WIDTH = 64


def weights(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    """Numbers of about unit gain, as trained layers have."""
    fan_in = shape[-2] if len(shape) == 2 else max(1, int(np.prod(shape[1:])))
    numbers: Array = (np.random.default_rng([seed, *shape]).standard_normal(shape) / np.sqrt(fan_in)).astype(dtype)
    return numbers


def info(name: str, shape: Sequence[int | str | None] | None, kind: int = FLOAT) -> onnx.ValueInfoProto:
    """A described input or output."""
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: dict[str, Array] | None = None,
    *,
    opset: int = 17,
    ir: int = 8,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model of one graph."""
    tensors = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), tensors)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir)


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> onnx.NodeProto:
    """A node; `domain` is one of the attributes' names."""
    return helper.make_node(op, list(inputs), list(outputs), **attributes)


def saved(proto: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    """The model in a file."""
    path = folder / name
    onnx.save(proto, path)
    return path


def matmul(opset: int = 17, ir: int = 8, dtype: Any = np.float32, rows: int = WIDTH) -> onnx.ModelProto:
    """One product [batch, 64] x [64, 64]."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inputs = [info("x", ("batch", rows), kind)]
    if ir < 4:
        inputs.append(info("w", (rows, WIDTH), kind))
    outputs = [info("y", ("batch", WIDTH), kind)]
    constants = {"w": weights(rows, WIDTH, dtype=dtype)}
    return model([node("MatMul", ["x", "w"], ["y"])], inputs, outputs, constants, opset=opset, ir=ir)


def gemm(dtype: Any = np.float32, **attributes: Any) -> onnx.ModelProto:
    """One Gemm with a bias [48]; the weight is [48, 64] where transB is set."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    shape = (48, WIDTH) if attributes.get("transB") else (WIDTH, 48)
    constants = {"w": weights(*shape, dtype=dtype), "b": weights(48, seed=1, dtype=dtype)}
    nodes = [node("Gemm", ["x", "w", "b"], ["y"], **attributes)]
    return model(nodes, [info("x", ("batch", WIDTH), kind)], [info("y", ("batch", 48), kind)], constants)


def feed_forward() -> onnx.ModelProto:
    """Two products with biases and a Relu, as exporters write a feed-forward block."""
    nodes = [
        node("MatMul", ["x", "up"], ["u"]),
        node("Add", ["u", "up_bias"], ["a"]),
        node("Relu", ["a"], ["r"]),
        node("MatMul", ["r", "down"], ["d"]),
        node("Add", ["d", "down_bias"], ["y"]),
    ]
    constants = {
        "up": weights(WIDTH, 96),
        "up_bias": weights(96),
        "down": weights(96, WIDTH),
        "down_bias": weights(WIDTH),
    }
    shape = ("batch", "sequence", WIDTH)
    return model(nodes, [info("x", shape)], [info("y", shape)], constants)


def gelu() -> onnx.ModelProto:
    """A Gelu as TorchScript spells it, and a product behind it."""
    nodes = [
        node("Div", ["x", "root"], ["scaled"]),
        node("Erf", ["scaled"], ["e"]),
        node("Add", ["e", "one"], ["plus"]),
        node("Mul", ["x", "plus"], ["gated"]),
        node("Mul", ["gated", "half"], ["g"]),
        node("MatMul", ["g", "w"], ["y"]),
    ]
    numbers = {name: np.array(value, np.float32) for name, value in (("root", 2**0.5), ("one", 1), ("half", 0.5))}
    shape = ("batch", WIDTH)
    return model(nodes, [info("x", shape)], [info("y", shape)], {**numbers, "w": weights(WIDTH, WIDTH)})


def dead_units() -> onnx.ModelProto:
    """A feed-forward block of which every fourth unit has no weights into it."""
    proto = feed_forward()
    for at, tensor in enumerate(proto.graph.initializer):
        if tensor.name in {"up", "up_bias"}:
            array = numpy_helper.to_array(tensor).copy()
            array[..., ::4] = 0
            proto.graph.initializer[at].CopyFrom(numpy_helper.from_array(array, tensor.name))
    return proto


def attention(heads: int = 4, size: int = 16) -> onnx.ModelProto:
    """Self-attention with a residual, as exporters decompose it."""
    nodes = []
    constants: dict[str, Array] = {"split": np.array([0, 0, heads, size]), "merge": np.array([0, 0, heads * size])}
    for at, part in enumerate("qkv"):
        constants[f"w_{part}"] = weights(WIDTH, heads * size, seed=at)
        constants[f"b_{part}"] = weights(heads * size, seed=at)
        order = [0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]
        nodes += [
            node("MatMul", ["x", f"w_{part}"], [f"{part}m"]),
            node("Add", [f"{part}m", f"b_{part}"], [f"{part}a"]),
            node("Reshape", [f"{part}a", "split"], [f"{part}s"]),
            node("Transpose", [f"{part}s"], [f"{part}t"], perm=order),
        ]
    constants |= {"step": np.array(size**-0.5, np.float32), "w_o": weights(heads * size, WIDTH, seed=3)}
    nodes += [
        node("MatMul", ["qt", "kt"], ["qk"]),
        node("Mul", ["qk", "step"], ["scaled"]),
        node("Softmax", ["scaled"], ["p"], axis=-1),
        node("MatMul", ["p", "vt"], ["pv"]),
        node("Transpose", ["pv"], ["back"], perm=[0, 2, 1, 3]),
        node("Reshape", ["back", "merge"], ["joined"]),
        node("MatMul", ["joined", "w_o"], ["o"]),
        node("Add", ["o", "x"], ["y"]),
    ]
    shape = ("batch", "sequence", WIDTH)
    return model(nodes, [info("x", shape)], [info("y", shape)], constants)


def layers(count: int = 4, *, normalised_after: bool = False) -> onnx.ModelProto:
    """Layers of attention and feed-forward that differ in their weights alone; their norms stand before or after."""
    heads, size = 4, 16
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, Array] = {
        "split": np.array([0, 0, heads, size]),
        "merge": np.array([0, 0, heads * size]),
        "step": np.array(size**-0.5, np.float32),
    }

    def linear(x: str, name: str, k: int, n: int) -> str:
        constants[f"{name}.weight"] = weights(k, n, seed=len(constants))
        constants[f"{name}.bias"] = weights(n, seed=len(constants)) * np.float32(0.1)
        nodes.append(node("MatMul", [x, f"{name}.weight"], [f"{name}.product"]))
        nodes.append(node("Add", [f"{name}.product", f"{name}.bias"], [name]))
        return name

    def norm(x: str, name: str) -> str:
        constants[f"{name}.gain"] = 1 + weights(WIDTH, seed=len(constants)) * np.float32(0.1)
        nodes.append(node("LayerNormalization", [x, f"{name}.gain"], [name]))
        return name

    def attend(x: str, name: str) -> str:
        for part in "qkv":
            nodes.append(node("Reshape", [linear(x, f"{name}.{part}", WIDTH, WIDTH), "split"], [f"{name}.{part}s"]))
            order = [0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]
            nodes.append(node("Transpose", [f"{name}.{part}s"], [f"{name}.{part}t"], perm=order))
        nodes.extend(
            [
                node("MatMul", [f"{name}.qt", f"{name}.kt"], [f"{name}.qk"]),
                node("Mul", [f"{name}.qk", "step"], [f"{name}.scaled"]),
                node("Softmax", [f"{name}.scaled"], [f"{name}.p"], axis=-1),
                node("MatMul", [f"{name}.p", f"{name}.vt"], [f"{name}.pv"]),
                node("Transpose", [f"{name}.pv"], [f"{name}.back"], perm=[0, 2, 1, 3]),
                node("Reshape", [f"{name}.back", "merge"], [f"{name}.joined"]),
            ]
        )
        return linear(f"{name}.joined", f"{name}.o", WIDTH, WIDTH)

    def feed(x: str, name: str) -> str:
        nodes.append(node("Relu", [linear(x, f"{name}.up", WIDTH, 96)], [f"{name}.r"]))
        return linear(f"{name}.r", f"{name}.down", 96, WIDTH)

    x = "x"
    for at in range(count):
        for part, block in (("attention", attend), ("feed", feed)):
            name = f"{at}.{part}"
            branch = block(x if normalised_after else norm(x, f"{name}.norm"), name)
            nodes.append(node("Add", [x, branch], [f"{name}.sum"]))
            x = norm(f"{name}.sum", f"{name}.norm") if normalised_after else f"{name}.sum"
    nodes.append(node("MatMul", [x if normalised_after else norm(x, "last"), "head"], ["y"]))
    constants["head"] = weights(WIDTH, WIDTH)
    shape = ("batch", "sequence", WIDTH)
    return model(nodes, [info("x", shape)], [info("y", shape)], constants)


def residual_blocks() -> onnx.ModelProto:
    """Two normalised feed-forward blocks, each added to what it read."""
    nodes, name = [], "x"
    constants: dict[str, Array] = {"one": np.ones(WIDTH, np.float32)}
    for at in range(2):
        constants |= {f"up{at}": weights(WIDTH, 96, seed=at), f"down{at}": weights(96, WIDTH, seed=at)}
        nodes += [
            node("LayerNormalization", [name, "one"], [f"n{at}"]),
            node("MatMul", [f"n{at}", f"up{at}"], [f"u{at}"]),
            node("Relu", [f"u{at}"], [f"r{at}"]),
            node("MatMul", [f"r{at}", f"down{at}"], [f"d{at}"]),
            node("Add", [name, f"d{at}"], [f"s{at}"]),
        ]
        name = f"s{at}"
    shape = ("batch", "sequence", WIDTH)
    nodes.append(node("LayerNormalization", [name, "one"], ["y"]))
    return model(nodes, [info("x", shape)], [info("y", shape)], constants)


def reused(layers: int = 3) -> onnx.ModelProto:
    """The same weight in every layer, as ALBERT has it."""
    nodes, name = [], "x"
    for layer in range(layers):
        nodes += [node("MatMul", [name, "w"], [f"m{layer}"]), node("Tanh", [f"m{layer}"], [f"t{layer}"])]
        name = f"t{layer}"
    constants = {"w": weights(WIDTH, WIDTH)}
    return model(nodes, [info("x", ("batch", WIDTH))], [info(name, ("batch", WIDTH))], constants)


def projections() -> onnx.ModelProto:
    """Queries, keys and values of one input."""
    nodes = [node("MatMul", ["x", f"w_{part}"], [part]) for part in "qkv"]
    nodes.append(node("Sum", ["q", "k", "v"], ["y"]))
    constants = {f"w_{part}": weights(WIDTH, WIDTH, seed=at) for at, part in enumerate("qkv")}
    return model(nodes, [info("x", ("batch", WIDTH))], [info("y", ("batch", WIDTH))], constants)


def tied_embedding() -> onnx.ModelProto:
    """Rows are looked up in a table whose transpose gives the logits."""
    nodes = [
        node("Gather", ["table", "ids"], ["rows"]),
        node("Tanh", ["rows"], ["hidden"]),
        node("Transpose", ["table"], ["head"], perm=[1, 0]),
        node("MatMul", ["hidden", "head"], ["logits"]),
    ]
    inputs = [info("ids", ("batch", "sequence"), INT64)]
    outputs = [info("logits", ("batch", "sequence", 80))]
    return model(nodes, inputs, outputs, {"table": weights(80, 32)})


def compressible() -> onnx.ModelProto:
    """Rows of few different numbers and rows of any, then a product whose weight is mostly zeros."""
    table = np.random.default_rng(0).integers(-3, 4, (80, WIDTH)).astype(np.float32) / 8
    weight = weights(WIDTH, WIDTH)
    weight[np.random.default_rng(1).random(weight.shape) < 0.8] = 0
    nodes = [
        node("Gather", ["table", "ids"], ["rows"]),
        node("Gather", ["other", "ids"], ["others"]),
        node("Add", ["rows", "others"], ["sum"]),
        node("MatMul", ["sum", "w"], ["y"]),
    ]
    inputs = [info("ids", ("batch", "sequence"), INT64)]
    outputs = [info("y", ("batch", "sequence", WIDTH))]
    return model(nodes, inputs, outputs, {"table": table, "other": weights(80, WIDTH), "w": weight})


def convolution(
    dtype: Any = np.float32, *, opset: int = 17, ir: int = 8, group: int = 1, bias: bool = True
) -> onnx.ModelProto:
    """Conv, Relu, Conv, global mean; the first one may be grouped (or depthwise at 16 groups)."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    constants = {
        "w": weights(32, 16 // group, 3, 3, dtype=dtype),
        "b": weights(32, dtype=dtype),
        "v": weights(32, 32, 3, 3, seed=1, dtype=dtype),
    }
    nodes = [
        node("Conv", ["x", "w", "b"] if bias else ["x", "w"], ["c"], pads=[1, 1, 1, 1], group=group),
        node("Relu", ["c"], ["r"]),
        node("Conv", ["r", "v"], ["d"], pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", ["d"], ["y"]),
    ]
    if not bias:
        del constants["b"]
    inputs = [info("x", ("batch", 16, 8, 8), kind)]
    if ir < 4:
        inputs += [info(name, array.shape, kind) for name, array in constants.items()]
    return model(nodes, inputs, [info("y", ("batch", 32, 1, 1), kind)], constants, opset=opset, ir=ir)


def transposed_convolution(group: int = 1) -> onnx.ModelProto:
    """One ConvTranspose from 16 to 32 channels."""
    nodes = [node("ConvTranspose", ["x", "w"], ["y"], group=group)]
    constants = {"w": weights(16, 32 // group, 3, 3)}
    return model(nodes, [info("x", ("batch", 16, 6, 6))], [info("y", ("batch", 32, 8, 8))], constants)


def recurrent(op: str) -> onnx.ModelProto:
    """An LSTM or GRU of 24 units over sequences of 16 numbers."""
    gates = {"LSTM": 4, "GRU": 3}[op]
    constants = {"w": weights(1, gates * 24, 16), "r": weights(1, gates * 24, 24), "b": weights(1, gates * 48)}
    nodes = [node(op, ["x", "w", "r", "b"], ["y"], hidden_size=24)]
    outputs = [info("y", ("sequence", 1, "batch", 24))]
    return model(nodes, [info("x", ("sequence", "batch", 16))], outputs, constants)


def branches(*, outside: bool = True) -> onnx.ModelProto:
    """An If whose bodies read an outer weight and one of their own; `outside` lets the top graph read the outer one."""
    then = helper.make_graph([node("MatMul", ["x", "w"], ["then"])], "then", [], [info("then", ("batch", WIDTH))])
    other = helper.make_graph(
        [node("MatMul", ["x", "v"], ["m"]), node("MatMul", ["m", "w"], ["else"])],
        "else",
        [],
        [info("else", ("batch", WIDTH))],
        [numpy_helper.from_array(weights(WIDTH, WIDTH, seed=1), "v")],
    )
    nodes = [node("If", ["flag"], ["z"], then_branch=then, else_branch=other)]
    nodes.append(node("MatMul", ["z", "w"], ["y"]) if outside else node("Tanh", ["z"], ["y"]))
    inputs = [info("x", ("batch", WIDTH)), info("flag", (), BOOL)]
    return model(nodes, inputs, [info("y", ("batch", WIDTH))], {"w": weights(WIDTH, WIDTH)})


def loop() -> onnx.ModelProto:
    """Three turns of a Loop that multiplies by an outer weight."""
    body = helper.make_graph(
        [node("MatMul", ["state", "w"], ["m"]), node("Tanh", ["m"], ["next"]), node("Identity", ["go"], ["again"])],
        "body",
        [info("turn", (), INT64), info("go", (), BOOL), info("state", ("batch", WIDTH))],
        [info("again", (), BOOL), info("next", ("batch", WIDTH))],
    )
    nodes = [node("Loop", ["turns", "", "x"], ["y"], body=body)]
    constants = {"w": weights(WIDTH, WIDTH), "turns": np.array(3, np.int64)}
    return model(nodes, [info("x", ("batch", WIDTH))], [info("y", ("batch", WIDTH))], constants)


def overridable() -> onnx.ModelProto:
    """A product whose weight, and a sum whose bias, a caller may replace; a second product that is constant."""
    nodes = [
        node("MatMul", ["x", "open"], ["m"]),
        node("Add", ["m", "bias"], ["a"]),
        node("MatMul", ["a", "closed"], ["y"]),
    ]
    inputs = [info("x", ("batch", WIDTH)), info("open", (WIDTH, WIDTH)), info("bias", (WIDTH,))]
    constants = {"open": weights(WIDTH, WIDTH), "bias": weights(WIDTH), "closed": weights(WIDTH, WIDTH, seed=1)}
    return model(nodes, inputs, [info("y", ("batch", WIDTH))], constants)


def with_a_constant_node(**attributes: Any) -> onnx.ModelProto:
    """`x` scaled by a Constant node of the given attribute, then multiplied by a weight."""
    nodes = [
        node("Constant", [], ["c"], **attributes),
        node("Cast", ["c"], ["f"], to=FLOAT),
        node("ReduceSum", ["f"], ["s"], keepdims=0),
        node("Mul", ["x", "s"], ["m"]),
        node("MatMul", ["m", "w"], ["y"]),
    ]
    shape = ("batch", WIDTH)
    return model(nodes, [info("x", shape)], [info("y", shape)], {"w": weights(WIDTH, WIDTH)})


def sparse(indices: Array) -> onnx.ModelProto:
    """A product with a sparse weight [64, 64] of three numbers."""
    values = numpy_helper.from_array(np.array([1.5, -2.0, 3.0], np.float32), "w")
    proto = model([node("MatMul", ["x", "w"], ["y"])], [info("x", ("batch", WIDTH))], [info("y", ("batch", WIDTH))])
    tensor = helper.make_sparse_tensor(values, numpy_helper.from_array(indices, "indices"), [WIDTH, WIDTH])
    proto.graph.sparse_initializer.append(tensor)
    return proto


def bert(folder: Path, *, opset: int = 17, dynamo: bool = False) -> Path:
    """A BERT of two layers with random weights, exported by torch."""
    import warnings

    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        attn_implementation="eager",
    )
    network = BertModel(config, add_pooling_layer=False).eval()

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = network

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            hidden: torch.Tensor = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            return hidden

    ids = torch.randint(0, 100, (2, 7))
    path = folder / "bert.onnx"
    axes = {0: "batch", 1: "sequence"}
    with warnings.catch_warnings():
        # torch's exporters warn of their own deprecations.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Hidden().eval(),
            (ids, torch.ones_like(ids)),
            str(path),
            input_names=["input_ids", "attention_mask"],
            output_names=["hidden"],
            dynamic_axes={"input_ids": axes, "attention_mask": axes, "hidden": axes},
            opset_version=opset,
            dynamo=dynamo,
        )
    return path


def feeds_for(path: Path, *, batch: int = 2, other: int = 5, seed: int = 0) -> dict[str, Array]:
    """Inputs of a model: the first dynamic axis of each is `batch`, the others are `other`; ids below 80."""
    from onnxprune.runtime import open_session

    generator = np.random.default_rng(seed)
    feeds = {}
    for port in open_session(path).inputs:
        shape = tuple(size if isinstance(size, int) else batch if size == "batch" else other for size in port.shape)
        assert port.dtype is not None
        if port.dtype.kind == "f":
            feeds[port.name] = generator.standard_normal(shape).astype(port.dtype)
        elif port.dtype.kind == "b":
            feeds[port.name] = np.ones(shape, np.bool_)
        else:
            feeds[port.name] = generator.integers(1, 80, shape).astype(port.dtype)
    return feeds


def outputs_of(path: Path, feeds: dict[str, Array], *, optimized: bool = True) -> dict[str, Any]:
    """What a model answers."""
    from onnxprune.runtime import open_session

    return open_session(path, level="default" if optimized else "none").run(feeds)
