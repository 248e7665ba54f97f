"""Small graphs written by hand: a tensor is a name, an operator is one call."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxprune.model import Model, load
from tests.equality import Traced, traced

Array = np.ndarray[Any, Any]
Dims = Sequence[int | str]
# Sizes of the dynamic axes in the probe runs, and in the checks of a cut.
PROBES = ({"b": 2, "s": 17, "t": 7}, {"b": 5, "s": 13, "t": 19}, {"b": 3, "s": 11, "t": 23})
CHECKED = ({"b": 2, "s": 9, "t": 4}, {"b": 1, "s": 6, "t": 5})


class Net:
    """Collects nodes; weights are random with a fixed seed."""

    def __init__(self, seed: int = 0, opset: int = 18) -> None:
        self.numbers = np.random.default_rng(seed)
        self.opset = opset
        self.inputs: list[tuple[str, Dims, int]] = []
        self.outputs: list[str] = []
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def input(self, name: str, dims: Dims, dtype: int = TensorProto.FLOAT) -> str:
        """A graph input; words are dynamic axes."""
        self.inputs.append((name, dims, dtype))
        return name

    def weight(self, *shape: int, name: str = "") -> str:
        """A random float constant, of unit size after a product over its first axis."""
        return self.constant(self.numbers.standard_normal(shape).astype(np.float32) * shape[0] ** -0.5, name)

    def constant(self, values: Any, name: str = "") -> str:
        """A constant; lists of integers become int64."""
        name = name or f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def op(self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attrs: Any) -> Any:
        """A node; its output's name, or a list of names."""
        names = [f"{kind.lower()}{len(self.nodes)}" + (f"_{at}" if outputs > 1 else "") for at in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=f"n{len(self.nodes)}", domain=domain, **attrs))
        return names[0] if outputs == 1 else names

    def linear(self, x: str, d_in: int, d_out: int, *, bias: bool = True) -> str:
        """MatMul and, with a bias, Add."""
        y = self.op("MatMul", x, self.weight(d_in, d_out))
        return str(self.op("Add", y, self.weight(d_out)) if bias else y)

    def reshape(self, x: str, *shape: int) -> str:
        """Reshape to a literal shape."""
        return str(self.op("Reshape", x, self.constant(np.asarray(shape, dtype=np.int64))))

    def output(self, name: str) -> None:
        """A graph output; its type and shape are inferred."""
        self.outputs.append(name)

    def proto(self) -> onnx.ModelProto:
        """The finished file."""
        infos = [helper.make_tensor_value_info(name, dtype, dims) for name, dims, dtype in self.inputs]
        outs = [helper.make_empty_tensor_value_info(name) for name in self.outputs]
        graph = helper.make_graph(self.nodes, "net", infos, outs, self.initializers)
        domains = {node.domain for node in self.nodes if node.domain}
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(domain, 1) for domain in sorted(domains))]
        proto = helper.make_model(graph, opset_imports=opsets, ir_version=9 if self.opset < 23 else 11)
        types = {info.name: info for info in onnx.shape_inference.infer_shapes(proto).graph.output}
        for out in proto.graph.output:
            if types[out.name].type.HasField("tensor_type"):
                out.CopyFrom(types[out.name])
            else:
                out.type.tensor_type.elem_type = TensorProto.FLOAT
        return proto

    def model(self) -> Model:
        """Loaded as users' files are."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "net.onnx"
            onnx.save(self.proto(), path)
            return load(path)

    def feeds(self, sizes: dict[str, int], seed: int = 1) -> dict[str, Array]:
        """Random inputs; integers are 0 or 1."""
        numbers = np.random.default_rng(seed)
        held: dict[str, Array] = {}
        for name, dims, dtype in self.inputs:
            shape = [sizes[dim] if isinstance(dim, str) else dim for dim in dims]
            if dtype == TensorProto.FLOAT:
                held[name] = numbers.standard_normal(shape).astype(np.float32)
            else:
                held[name] = numbers.integers(0, 2, shape).astype(helper.tensor_dtype_to_np_dtype(dtype))
        return held

    def traced(self, *, cut_interface: bool = False) -> Traced:
        """Observed in the probe runs and traced."""
        return traced(self.model(), [self.feeds(sizes) for sizes in PROBES], cut_interface=cut_interface)

    def checks(self) -> list[dict[str, Array]]:
        """Inputs of other sizes than the probes'."""
        return [self.feeds(sizes, seed) for seed, sizes in enumerate(CHECKED)]
