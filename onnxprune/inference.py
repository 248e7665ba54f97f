"""Shapes as onnx infers them, on the graph itself."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs

from onnxprune.graph import walk
from onnxprune.model import Model, to_skeleton


def refresh_shapes(model: Model) -> None:
    """Shapes as onnx infers them now; what the file claims may be stale."""
    drop_shapes(model.graph)
    inferred = onnx.shape_inference.infer_shapes(to_skeleton(model), data_prop=True).graph.value_info
    known = {info.name: info for info in inferred}
    for node in model.graph.nodes:
        for tensor in node.outputs:
            info = known.get(tensor.name)
            if info is None or not info.type.tensor_type.HasField("shape") or tensor.shape is not None:
                continue
            kind = info.type.tensor_type
            tensor.dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type) if kind.elem_type else None
            tensor.shape = [
                dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or "") for dim in kind.shape.dim
            ]


def drop_shapes(graph: gs.Graph) -> None:
    """Forget what the file or inference says of shapes; those of inputs and outputs stay."""
    kept = {id(tensor) for tensor in [*graph.inputs, *graph.outputs]}
    for _, node in walk(graph):
        for tensor in node.outputs:
            if isinstance(tensor, gs.Variable) and id(tensor) not in kept:
                tensor.shape = tensor.dtype = None
