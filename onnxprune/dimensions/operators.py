"""One row an operator: what it says about the axes of its inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable

import onnx_graphsurgeon as gs

from onnxprune.dimensions import attention, contraction, layout, pointwise, reduction, slicing
from onnxprune.dimensions.tracer import Tracer, label, names

Handler = Callable[[Tracer, gs.Node], None]


def opaque(t: Tracer, node: gs.Node) -> None:
    """Generators and selections whose result has no axis that could be cut."""
    t.pin_all(node, f"{label(node)} computes with its positions")


def measure(t: Tracer, node: gs.Node) -> None:
    """Shape and Size read no data; a cut keeps what they say (see `onnxprune.cut`)."""
    t.sink(node, "measure")


REDUCTIONS = names("""
    ReduceSum ReduceSumSquare ReduceL1 ReduceL2 ReduceMean ReduceMax ReduceMin ReduceProd ReduceLogSum
    ReduceLogSumExp ArgMax ArgMin
""")
POOLS = names("AveragePool MaxPool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool")
OPAQUE = names("""
    EyeLike NonZero OneHot Range RandomNormal RandomUniform ScatterElements ScatterND TopK
""")

STANDARD: dict[str, Handler] = {
    **dict.fromkeys(pointwise.UNARY, pointwise.unary),
    **dict.fromkeys(pointwise.BROADCAST, pointwise.broadcast),
    **dict.fromkeys(("Shape", "Size"), measure),
    **dict.fromkeys(("Flatten", "Squeeze", "Unsqueeze"), layout.regroup),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), pointwise.quantize),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), reduction.softmax),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"), reduction.layer_norm),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), reduction.channel_norm),
    **dict.fromkeys(REDUCTIONS, reduction.reduce),
    **dict.fromkeys(POOLS, reduction.pool),
    **dict.fromkeys(("Resize", "Upsample"), reduction.resize),
    **dict.fromkeys(OPAQUE, opaque),
    "Attention": attention.attention,
    "CastLike": pointwise.cast_like,
    "Concat": slicing.concat,
    "ConstantOfShape": layout.filled,
    "Conv": contraction.conv,
    "ConvTranspose": contraction.conv_transpose,
    "CumSum": slicing.along_axis,
    "DepthToSpace": layout.depth_to_space,
    "DynamicQuantizeLinear": pointwise.dynamic_quantize,
    "Einsum": contraction.einsum,
    "Expand": layout.expand,
    "Gather": slicing.gather,
    "GatherND": slicing.gather_nd,
    "GatherElements": slicing.gather_elements,
    "Gemm": contraction.gemm,
    "GroupNormalization": reduction.group_norm,
    "LRN": reduction.local_norm,
    "LpNormalization": reduction.lp_norm,
    "MatMul": contraction.matmul,
    "MatMulInteger": contraction.matmul,
    "Pad": slicing.pad,
    "Reshape": layout.reshape,
    "RotaryEmbedding": attention.rotary,
    "Slice": slicing.slice_,
    "SpaceToDepth": layout.space_to_depth,
    "Split": slicing.split,
    "Tile": layout.tile,
    "Transpose": layout.transpose,
    "Trilu": slicing.last_two_fixed,
}

MICROSOFT: dict[str, Handler] = {
    **dict.fromkeys(("BiasGelu", "FastGelu"), pointwise.biased),
    **dict.fromkeys(("Gelu", "QuickGelu"), pointwise.unary),
    **dict.fromkeys(("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"), reduction.skip_layer_norm),
    "Attention": attention.merged_attention,
    "EmbedLayerNormalization": reduction.embed_layer_norm,
    "FusedConv": contraction.conv,
    "FusedGemm": contraction.gemm,
    "FusedMatMul": contraction.fused_matmul,
    "GroupQueryAttention": attention.group_query_attention,
    "MultiHeadAttention": attention.multi_head_attention,
    "RotaryEmbedding": attention.rotary,
    "SimplifiedLayerNormalization": reduction.layer_norm,
}


def handler_of(node: gs.Node) -> Handler | None:
    """The operator's row; None for one that is not in the tables."""
    if node.domain in {None, "", "ai.onnx"}:
        return STANDARD.get(node.op)
    return MICROSOFT.get(node.op) if node.domain == "com.microsoft" else None
