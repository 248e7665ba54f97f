"""Integer forms of operators: the graph side of quantization, for weights that were solved before.

Each form leaves the reader's output tensor in place, so that names downstream survive.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxprune.qdq import GridWriter, keep_floats
from onnxprune.rewrite import Rewriter, onnx_type
from onnxprune.weights import Use

Array = np.ndarray[Any, Any]
FLOAT = onnx.TensorProto.FLOAT


class Int8Writer:
    """Rewrites the readers of one model's weights; activations that several readers share are quantized once."""

    def __init__(self, graph: gs.Graph) -> None:
        self.rewriter = Rewriter(graph)
        self._dynamic: dict[str, tuple[gs.Tensor, gs.Tensor, gs.Tensor]] = {
            node.inputs[0].name: tuple(node.outputs) for node in graph.nodes if node.op == "DynamicQuantizeLinear"
        }
        self.grids = GridWriter(self.rewriter)

    def finish(self) -> None:
        """Put the graph together."""
        self.rewriter.finish()
        keep_floats(self.rewriter.graph)

    def dynamic(self, use: Use, weight: gs.Tensor, scale: gs.Constant, dtype: np.dtype[Any]) -> None:
        """MatMul or Gemm as an integer product whose activations are quantized at run time.

        The form that onnxruntime fuses: DynamicQuantizeLinear, MatMulInteger, Cast, Mul by the product of both scales.

        Args:
            use: the MatMul or Gemm.
            weight: int8 [k, n].
            scale: float32 [n], or a single step.
            dtype: the float type of the model around it.
        """
        make, node = self.rewriter, use.node
        numbers, step, zero_point = self._quantized(node.inputs[0], dtype)
        name = use.name
        integer, product, steps = (make.variable(f"{name}.{part}") for part in ("int32", "float", "scale"))
        new = [
            make.node("MatMulInteger", [numbers, weight, zero_point], [integer]),
            make.node("Cast", [integer], [product], to=FLOAT),
            make.node("Mul", [step, scale], [steps]),
        ]
        result = make.variable(f"{name}.product")
        new.append(make.node("Mul", [product, steps], [result]))
        if dtype != np.float32:
            cast, result = make.cast(result, onnx_type(dtype), f"{name}.cast")
            new.append(cast)
        self.biased(use, new, result, dtype)
        make.replace(node, new)

    def biased(self, use: Use, new: list[gs.Node], result: gs.Tensor, dtype: np.dtype[Any]) -> None:
        """Add to `new` what a Gemm adds to its product."""
        node = use.node
        if node.op == "Gemm" and len(node.inputs) > 2 and node.inputs[2].name:
            bias = self._scaled_bias(node, new, dtype)
            new.append(self.rewriter.node("Add", [result, bias], [self.rewriter.variable(f"{use.name}.biased")]))

    def _scaled_bias(self, node: gs.Node, new: list[gs.Node], dtype: np.dtype[Any]) -> gs.Tensor:
        bias, beta = node.inputs[2], float(node.attrs.get("beta", 1.0))
        if beta == 1.0:
            return bias
        if isinstance(bias, gs.Constant):
            values = bias.values
            return self.rewriter.constant(f"{bias.name}.scaled", (values * beta).astype(values.dtype))
        out = self.rewriter.variable(f"{bias.name}.scaled")
        factor = self.rewriter.constant(f"{out.name}.beta", np.array(beta, dtype))
        new.append(self.rewriter.node("Mul", [bias, factor], [out]))
        return out

    def _quantized(self, tensor: gs.Tensor, dtype: np.dtype[Any]) -> tuple[gs.Tensor, gs.Tensor, gs.Tensor]:
        known = self._dynamic.get(tensor.name)
        if known is not None:
            return known
        make, nodes, source = self.rewriter, [], tensor
        if dtype != np.float32:
            cast, source = make.cast(tensor, FLOAT, f"{tensor.name}.float32")
            nodes.append(cast)
        outputs = [make.variable(f"{tensor.name}.{part}") for part in ("uint8", "step", "zero_point")]
        nodes.append(make.node("DynamicQuantizeLinear", [source], outputs))
        make.after(tensor, nodes)
        self._dynamic[tensor.name] = (outputs[0], outputs[1], outputs[2])
        return self._dynamic[tensor.name]

    def gathered(self, use: Use, weight: gs.Tensor, scale: gs.Constant, dtype: np.dtype[Any]) -> None:
        """An embedding whose rows are looked up as int8 and then scaled.

        Args:
            use: the Gather.
            weight: int8 [rows, …].
            scale: [rows, 1 …], float16 or float32.
            dtype: the float type of the rows.
        """
        make, node, name = self.rewriter, use.node, use.name
        indices = node.inputs[1]
        attrs = dict(node.attrs)
        rows, steps = make.variable(f"{name}.int8"), make.variable(f"{name}.scale")
        cast_rows, floats = make.cast(rows, onnx_type(dtype), f"{name}.float")
        new = [
            make.node("Gather", [weight, indices], [rows], **attrs),
            make.node("Gather", [scale, indices], [steps], **attrs),
            cast_rows,
        ]
        if scale.dtype != dtype:
            cast_steps, steps = make.cast(steps, onnx_type(dtype), f"{name}.step")
            new.append(cast_steps)
        new.append(make.node("Mul", [floats, steps], [make.variable(f"{name}.row")]))
        make.replace(node, new)

    def stored(self, weight: gs.Constant, scale: gs.Constant, uses: list[Use], dtype: np.dtype[Any]) -> gs.Tensor:
        """A weight that is int8 in the file and float once the runtime has folded Cast and Mul at load.

        Args:
            weight: int8, any shape.
            scale: broadcasts against `weight`, of type `dtype`.
            uses: the readers that get the float weight.
            dtype: its type.
        """
        make = self.rewriter
        cast, floats = make.cast(weight, onnx_type(dtype), f"{weight.name}.float")
        decoded = make.variable(f"{weight.name}.decoded")
        make.after(weight, [cast, make.node("Mul", [floats, scale], [decoded])])
        self.read_instead(uses, decoded)
        return decoded

    def read_instead(self, uses: list[Use], decoded: gs.Tensor) -> None:
        """Let readers get a tensor in place of the stored weight."""
        for use in uses:
            reader = use.views[0] if use.views else use.node
            reader.inputs[0 if use.views else use.slot] = decoded
