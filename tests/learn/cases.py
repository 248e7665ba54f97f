"""One line a form of an operator: its inputs and attributes. Every row of the tables has one at least."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

Array = np.ndarray[Any, Any]
MS = "com.microsoft"


@dataclass(frozen=True)
class Case:
    """A graph of one node.

    Attributes:
        smooth: whether finite differences can check its gradient.
        stored: inputs that are initializers.
        like: the same in a form that onnxruntime has a kernel for.
    """

    op: str
    inputs: tuple[Any, ...]
    domain: str = ""
    opset: int = 21
    outputs: int = 1
    smooth: bool = True
    stored: tuple[int, ...] = ()
    attrs: dict[str, Any] = field(default_factory=dict)
    like: Case | None = None

    def __str__(self) -> str:
        """Its test id."""
        said = ",".join(
            f"{k}={v}" for k, v in self.attrs.items() if not isinstance(v, onnx.TensorProto | onnx.GraphProto)
        )
        shapes = ",".join("-" if x is None else "x".join(map(str, x.shape)) for x in self.inputs)
        return f"{self.op}{self.opset if self.opset != 21 else ''}({shapes})[{said}]"[:90]

    def model(self) -> onnx.ModelProto:
        """A graph that reads the arrays and gives out what the node does."""
        names = ["" if x is None else f"x{at}" for at, x in enumerate(self.inputs)]
        outs = [f"y{at}" for at in range(self.outputs)]
        node = helper.make_node(self.op, names, outs, domain=self.domain, **self.attrs)
        ports, stored = [], []
        for at, x in enumerate(self.inputs):
            if x is None:
                continue
            if at in self.stored:
                stored.append(onnx.numpy_helper.from_array(np.asarray(x), f"x{at}"))
            else:
                ports.append(
                    helper.make_tensor_value_info(f"x{at}", helper.np_dtype_to_tensor_dtype(x.dtype), list(x.shape))
                )
        given = [onnx.ValueInfoProto(name=name) for name in outs]
        graph = helper.make_graph([node], "case", ports, given, stored)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(MS, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        if not self.domain:
            inferred = onnx.shape_inference.infer_shapes(model).graph.output
            for at, one in enumerate(inferred):
                model.graph.output[at].CopyFrom(one)
        return model

    def feeds(self) -> dict[str, Array]:
        """Inputs by name."""
        return {f"x{at}": np.asarray(x) for at, x in enumerate(self.inputs) if x is not None and at not in self.stored}


def r(*shape: int, seed: int = 0, low: float | None = None) -> Array:
    """Floats of about unit size; above `low` where it is given."""
    x = np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)
    return x if low is None else (np.abs(x) + low).astype(np.float32)


def i(*values: Any, dtype: Any = np.int64) -> Array:
    return np.array(values, dtype)


def b(*shape: int) -> Array:
    return np.random.default_rng(list(shape)).random(shape) < 0.5


def w(*shape: int, dtype: Any = np.int8) -> Array:
    info = np.iinfo(dtype)
    return np.random.default_rng(list(shape)).integers(info.min, info.max + 1, shape).astype(dtype)


def c(
    op: str,
    *inputs: Any,
    domain: str = "",
    opset: int = 21,
    outputs: int = 1,
    smooth: bool = True,
    stored: tuple[int, ...] = (),
    **attrs: Any,
) -> Case:
    return Case(op, inputs, domain, opset, outputs, smooth, stored, attrs)


X = r(2, 3, 4)
UNARY = [
    c(op, r(3, 4))
    for op in (
        "Abs",
        "Asinh",
        "Atan",
        "Ceil",
        "Cos",
        "Cosh",
        "Erf",
        "Exp",
        "Floor",
        "HardSwish",
        "Identity",
        "Mish",
        "Neg",
        "Relu",
        "Round",
        "Sigmoid",
        "Sign",
        "Sin",
        "Sinh",
        "Softplus",
        "Softsign",
        "Tan",
        "Tanh",
    )
]
UNARY += [c(op, r(3, 4, low=1.1)) for op in ("Acosh", "Log", "Reciprocal", "Sqrt")]
UNARY += [c(op, np.tanh(r(3, 4)) * np.float32(0.9)) for op in ("Acos", "Asin", "Atanh")]
UNARY += [
    c("Celu", r(3, 4), alpha=0.7),
    c("Elu", r(3, 4), alpha=0.7),
    c("Gelu", r(3, 4)),
    c("Gelu", r(3, 4), approximate="tanh"),
    c("HardSigmoid", r(3, 4), alpha=0.3),
    c("LeakyRelu", r(3, 4), alpha=0.1),
    c("Selu", r(3, 4)),
    c("Shrink", r(3, 4), lambd=0.4, bias=0.1),
    c("ThresholdedRelu", r(3, 4), alpha=0.3),
    c("Swish", r(3, 4), opset=24, alpha=1.3),
]
BINARY = [c(op, r(3, 1, 4), r(2, 1, low=1)) for op in ("Add", "Div", "Mul", "Sub")] + [
    c(op, r(3, 4), r(4), r(3, 1)) for op in ("Max", "Mean", "Min", "Sum")
]
BINARY += [
    c("Pow", r(3, 4, low=0.5), r(4)),
    c("Pow", r(3, 4), np.float32(2), stored=(1,)),
    c("Pow", i(1, 2, 3), np.float32(2), smooth=False),
    c("Mod", r(3, 4), r(4, low=1), fmod=1, smooth=False),
    c("Mod", i(-5, 5), i(3, -3)),
    c("Div", i(-7, 7), i(2, 2)),
    c("PRelu", r(2, 3, 4), r(3, 1)),
]
LOGIC = (
    [c(op, b(3, 4), b(4)) for op in ("And", "Or", "Xor")]
    + [c("Not", b(3, 4))]
    + [
        c(op, i(1, 2, 3), i(2, 2, 2))
        for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "BitwiseAnd", "BitwiseOr", "BitwiseXor")
    ]
)
LOGIC += [
    c("BitwiseNot", i(1, 2)),
    c("BitShift", w(4, dtype=np.uint8), w(4, dtype=np.uint8) % np.uint8(4), direction="LEFT"),
    c("BitShift", w(4, dtype=np.uint8), w(4, dtype=np.uint8) % np.uint8(4), direction="RIGHT"),
    c("Where", b(3, 4), r(3, 4), r(4)),
    c("IsNaN", np.array([1, np.nan], np.float32), smooth=False),
    c("IsInf", np.array([1, np.inf, -np.inf], np.float32), detect_negative=0, smooth=False),
]
TYPES = [
    c("Cast", r(3, 4), to=TensorProto.DOUBLE),
    c("Cast", r(3, 4), to=TensorProto.INT32, smooth=False),
    c("Cast", i(0, 3), to=TensorProto.BOOL),
    c("CastLike", i(1, 2), r(1)),
    c("Clip", r(3, 4), np.float32(-0.5), np.float32(0.5)),
    c("Clip", r(3, 4), None, np.float32(0.5)),
    c("Clip", r(3, 4), opset=6, min=-0.5, max=0.5),
    c("Dropout", r(3, 4)),
]
SHAPES = [
    c("Reshape", X, i(0, -1)),
    c("Reshape", r(0, 4), i(4, 0), allowzero=1, smooth=False),
    c("Flatten", X, axis=2),
    c("Flatten", X, axis=-1),
    c("Squeeze", r(1, 3, 1), i(0)),
    c("Squeeze", r(1, 3, 1)),
    c("Squeeze", r(1, 3, 1), opset=11, axes=[-1]),
    c("Unsqueeze", r(3), i(0, -1)),
    c("Unsqueeze", r(3), opset=11, axes=[0, 2]),
    c("Transpose", X),
    c("Transpose", X, perm=[1, 0, 2]),
    c("Concat", r(2, 3), r(2, 1), axis=-1),
    c("Expand", r(3, 1), i(2, 1, 4)),
    c("Tile", r(2, 3), i(2, 1)),
    c("Shape", X, start=-2, smooth=False),
    c("Size", X, smooth=False),
    c("Range", i(2)[0], i(11)[0], i(3)[0]),
    c("Range", np.float32(0), np.float32(1), np.float32(0.3), smooth=False),
    c("ConstantOfShape", i(2, 3), value=helper.make_tensor("v", TensorProto.INT64, [1], [7])),
    c("ConstantOfShape", i(2)),
    c("EyeLike", i(*[[0] * 4] * 3), k=1),
    c("Trilu", r(3, 4), i(1)[0]),
    c("Trilu", r(3, 4), upper=0),
    c("NonZero", b(3, 4)),
    c("OneHot", i(0, -1, 2), i(3)[0], np.array([-1, 5], np.float32), axis=0),
]
SHAPES += [
    c("Split", r(5, 2), outputs=2, num_outputs=2),
    c("Split", r(5, 2), i(1, 4), outputs=2),
    c("Split", r(2, 6), opset=11, outputs=3, axis=1),
    c("Slice", r(5, 6), i(-1, 1), i(-9, 5), i(0, 1), i(-2, 2)),
    c("Slice", r(5, 6), opset=9, starts=[1], ends=[2**60], axes=[1]),
    c("Slice", r(5), i(3), i(1)),
    c("Pad", r(2, 3), i(1, 0, 0, 2), np.float32(0.5)),
    c("Pad", r(2, 3), i(0, -1, 1, 0)),
    c("Pad", r(1, 3, 4), i(1, 2), None, i(2), mode="reflect"),
    c("Pad", r(3, 4), i(1, 1, 2, 1), mode="edge"),
    c("Pad", r(3, 4), i(1, 1, 2, 1), mode="wrap"),
    c("Pad", r(2, 3), opset=2, pads=[0, 1, 0, 1], value=2.0),
    c("DepthToSpace", r(1, 8, 2, 3), blocksize=2),
    c("DepthToSpace", r(1, 8, 2, 3), blocksize=2, mode="CRD"),
    c("SpaceToDepth", r(1, 2, 4, 6), blocksize=2),
    c("ReverseSequence", r(4, 3, 2), i(2, 4, 1)),
    c("Compress", r(3, 4), np.array([True, False, True]), axis=0),
]
LOOKUPS = [
    c("Gather", r(5, 3), i([0, -1], [2, 2])),
    c("Gather", r(2, 5, 3), i(4, 1), axis=1),
    c("Gather", i(5, 6), i(1)[0]),
    c("GatherElements", r(3, 4), i([0, 2, -1, 1]), axis=0),
    c("GatherND", r(2, 3, 4), i([0, 1], [1, -1])),
    c("GatherND", r(2, 3, 4), i([0], [2]), batch_dims=1),
    c("ScatterND", r(4, 3), i([0], [2]), r(2, 3, seed=1)),
    c("ScatterND", r(4, 3), i([1], [1]), r(2, 3, seed=1), reduction="add"),
    c("ScatterElements", r(3, 3), i([0, 2, 1]), r(1, 3, seed=1), axis=0),
    c("ScatterElements", r(3, 3), i([0, 2, 1]), r(1, 3, seed=1), axis=0, reduction="add"),
    c("ScatterElements", r(3, 3), i([0, 2, 1]), r(1, 3, seed=1), axis=0, reduction="mul"),
    c("ScatterElements", r(3, 3), i([0, 2, 1]), r(1, 3, seed=1), axis=0, reduction="max"),
]
REDUCTIONS = [
    c(op, r(2, 3, 4, low=0.5), i(-1, 0))
    for op in (
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
    )
]
REDUCTIONS += [
    c("ReduceSum", X, keepdims=0),
    c("ReduceMean", X, opset=13, axes=[1], keepdims=0),
    c("ReduceSum", X, noop_with_empty_axes=1),
    c("ReduceSum", i([1, 2], [3, 4]), i(0)),
    c("ArgMax", r(3, 4), axis=-1, keepdims=0, smooth=False),
    c("ArgMax", i([1, 2, 2]), axis=1, select_last_index=1),
    c("ArgMin", r(3, 4), smooth=False),
    c("CumSum", r(3, 4), i(1)[0]),
    c("CumSum", r(3, 4), i(0)[0], exclusive=1, reverse=1),
    c("TopK", r(3, 5), i(2), outputs=2),
    c("TopK", r(3, 5), i(2), outputs=2, largest=0, axis=0),
    c("Softmax", X),
    c("Softmax", X, axis=1),
    c("Softmax", X, opset=11, axis=1),
    c("LogSoftmax", X),
    c("Hardmax", r(3, 4), smooth=False),
]
PRODUCTS = [
    c("MatMul", r(2, 1, 3, 4), r(5, 4, 2)),
    c("MatMul", r(4), r(4, 2)),
    c("Gemm", r(4, 3), r(2, 4), r(2), transA=1, transB=1, alpha=0.5, beta=0.3),
    c("Gemm", r(3, 4), r(4, 2)),
    c("Einsum", r(2, 3, 4), r(2, 4, 5), equation="bij, bjk -> bik"),
    c("Conv", r(1, 4, 6, 5), r(6, 2, 3, 2), r(6), group=2, pads=[1, 0, 2, 1], strides=[2, 1], dilations=[1, 2]),
    c("Conv", r(1, 2, 7), r(3, 2, 4), auto_pad="SAME_UPPER", strides=[2]),
    c("Conv", r(1, 2, 7), r(3, 2, 4), auto_pad="SAME_LOWER", strides=[1]),
    c("Conv", r(1, 1, 3, 3, 3), r(2, 1, 2, 2, 2), pads=[1] * 6),
    c(
        "ConvTranspose",
        r(1, 4, 3, 3),
        r(4, 2, 3, 2),
        r(4),
        group=2,
        strides=[2, 3],
        pads=[1, 0, 0, 1],
        output_padding=[1, 1],
    ),
    c("ConvTranspose", r(1, 2, 4), r(2, 3, 3), strides=[2], output_shape=[8]),
    c("ConvTranspose", r(1, 2, 4), r(2, 3, 3), strides=[2], auto_pad="SAME_UPPER"),
    c("ConvTranspose", r(1, 2, 4), r(2, 3, 3), dilations=[2]),
]
NORMS = [
    c("LayerNormalization", r(2, 3, 4), r(4), r(4, seed=1)),
    c("LayerNormalization", r(2, 3, 4), r(3, 4), axis=1),
    c("LayerNormalization", r(2, 3, 4), r(4), outputs=3),
    c("RMSNormalization", r(2, 4), r(4), opset=23),
    c("BatchNormalization", r(2, 3, 4), r(3), r(3, seed=1), r(3, seed=2), r(3, low=0.5)),
    c("InstanceNormalization", r(2, 3, 4, 2), r(3), r(3, seed=1)),
    c("GroupNormalization", r(2, 4, 3), r(4), r(4, seed=1), num_groups=2),
    c("GroupNormalization", r(2, 4, 3), r(2), r(2, seed=1), opset=18, num_groups=2),
    c("LpNormalization", r(3, 4), axis=1),
    c("LpNormalization", r(3, 4), axis=0, p=1),
    c("MeanVarianceNormalization", r(2, 3, 4, 5)),
    c("LRN", r(1, 5, 3, 3), size=3, alpha=0.3, bias=1.5),
]
POOLS = [
    c("MaxPool", r(1, 2, 7, 6), kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
    c("MaxPool", r(1, 2, 8), kernel_shape=[3], strides=[2], ceil_mode=1),
    c("MaxPool", r(1, 2, 9), kernel_shape=[3], dilations=[2]),
    c("MaxPool", r(1, 2, 5, 5), kernel_shape=[2, 2], auto_pad="SAME_UPPER", strides=[2, 2]),
    c("AveragePool", r(1, 2, 7, 6), kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
    c("AveragePool", r(1, 2, 7, 6), kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1], count_include_pad=1),
    c("AveragePool", r(1, 2, 8), kernel_shape=[3], strides=[2], ceil_mode=1),
    c("AveragePool", r(1, 2, 9), kernel_shape=[3], dilations=[2]),
    c("LpPool", r(1, 2, 6, 6, low=0.2), kernel_shape=[2, 2], strides=[2, 2], p=3),
    c("GlobalAveragePool", r(1, 2, 3, 4)),
    c("GlobalMaxPool", r(1, 2, 3, 4)),
    c("GlobalLpPool", r(1, 2, 3, 4)),
]
EMPTY = np.zeros(0, np.float32)
RESIZES = [
    c("Resize", r(1, 2, 4, 5), None, np.array([1, 1, *s], np.float32), mode=mode, coordinate_transformation_mode=how)
    for mode in ("nearest", "linear", "cubic")
    for how in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    for s in ((2.0, 1.5), (0.6, 0.5))
]
RESIZES += [
    c("Resize", r(1, 1, 4, 4), None, None, i(1, 1, 7, 3), mode="linear"),
    c("Resize", r(1, 1, 4, 4), None, None, i(7, 3), mode="linear", axes=[2, 3]),
    c(
        "Resize",
        r(1, 1, 4, 4),
        None,
        np.array([1, 1, 2, 2], np.float32),
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    ),
    c("Resize", r(1, 1, 4, 4), np.array([1, 1, 2, 2], np.float32), opset=10, mode="nearest"),
    c("Resize", r(1, 1, 6, 6), None, np.array([1, 1, 0.5, 0.7], np.float32), mode="cubic", exclude_outside=1),
    c("Upsample", r(1, 1, 4, 4), np.array([1, 1, 2, 2], np.float32), opset=9, mode="nearest"),
]
SCALE, ZERO = np.float32(0.05), np.uint8(120)
QUANTIZED = [
    c("DynamicQuantizeLinear", r(3, 4), outputs=3, smooth=False),
    c("QuantizeLinear", r(3, 4), SCALE, ZERO, smooth=False),
    c("QuantizeLinear", r(3, 4), r(4, low=0.01), np.zeros(4, np.int8), axis=1, smooth=False),
    c("DequantizeLinear", w(3, 4), r(4, low=0.01), axis=1),
    c("DequantizeLinear", w(3, 4, dtype=np.uint8), SCALE, ZERO),
    c("DequantizeLinear", w(4, 4), r(2, 4, low=0.1), axis=0, block_size=2),
    c("MatMulInteger", w(3, 4, dtype=np.uint8), w(4, 5), ZERO, np.int8(0)),
    c("ConvInteger", w(1, 2, 5, 5, dtype=np.uint8), w(3, 2, 2, 2, dtype=np.uint8), ZERO, np.uint8(100)),
    c(
        "QLinearMatMul",
        w(3, 4, dtype=np.uint8),
        SCALE,
        ZERO,
        w(4, 5, dtype=np.uint8),
        SCALE,
        ZERO,
        np.float32(0.3),
        ZERO,
        smooth=False,
    ),
    c(
        "QLinearConv",
        w(1, 2, 5, 5, dtype=np.uint8),
        SCALE,
        ZERO,
        w(3, 2, 2, 2),
        np.array([0.1, 0.2, 0.3], np.float32),
        np.zeros(3, np.int8),
        np.float32(0.3),
        ZERO,
        i(10, -20, 30, dtype=np.int32),
        smooth=False,
    ),
]
RECURRENT = [
    c("LSTM", r(4, 2, 3), r(1, 20, 3), r(1, 20, 5), r(1, 40), hidden_size=5, outputs=3),
    c(
        "LSTM",
        r(4, 2, 3),
        r(2, 20, 3),
        r(2, 20, 5),
        r(2, 40),
        i(4, 2, dtype=np.int32),
        r(2, 2, 5),
        r(2, 2, 5, seed=1),
        r(2, 15),
        hidden_size=5,
        outputs=3,
        direction="bidirectional",
    ),
    *(
        c(
            "DynamicQuantizeLSTM",
            r(4, 2, 3),
            w(ways, 3, 20, dtype=dtype),
            w(ways, 5, 20, dtype=dtype),
            r(ways, 40),
            None,
            state and r(ways, 2, 5),
            state and r(ways, 2, 5, seed=1),
            state and r(ways, 15),
            r(*scales, low=0.5) / 128,
            np.full(scales, zero, dtype),
            r(*scales, low=0.5, seed=1) / 128,
            np.full(scales, zero, dtype),
            domain=MS,
            smooth=False,
            stored=(1, 2, 8, 9, 10, 11),
            hidden_size=5,
            outputs=3,
            direction=direction,
        )
        for ways, direction, dtype, scales, state, zero in (
            (1, "forward", np.int8, (1,), None, 3),
            (1, "reverse", np.uint8, (1, 20), True, 5),
            (2, "bidirectional", np.int8, (2, 20), True, 0),
            (2, "bidirectional", np.uint8, (2,), None, 120),
        )
    ),
    c("GRU", r(4, 2, 3), r(1, 15, 3), r(1, 15, 5), r(1, 30), hidden_size=5, outputs=2),
    c(
        "GRU",
        r(4, 2, 3),
        r(1, 15, 3),
        r(1, 15, 5),
        r(1, 30),
        None,
        r(1, 2, 5),
        hidden_size=5,
        outputs=2,
        linear_before_reset=1,
        direction="reverse",
    ),
    c("RNN", r(4, 2, 3), r(1, 5, 3), r(1, 5, 5), r(1, 10), hidden_size=5, outputs=2),
    c("RNN", r(4, 2, 3), r(1, 5, 3), r(1, 5, 5), hidden_size=5, outputs=2, activations=["Relu"]),
]
COS, SIN = (np.cos, np.sin)
ANGLES = r(6, 4)
ATTENTION = [
    c("Attention", r(2, 3, 8), r(2, 5, 8, seed=1), r(2, 5, 8, seed=2), opset=23, q_num_heads=2, kv_num_heads=2),
    c("Attention", r(2, 4, 3, 8), r(2, 2, 3, 8, seed=1), r(2, 2, 3, 6, seed=2), opset=23, is_causal=1, scale=0.2),
    c(
        "Attention",
        r(1, 2, 3, 4),
        r(1, 2, 3, 4, seed=1),
        r(1, 2, 3, 4, seed=2),
        np.array([[True, False, True]] * 3),
        opset=23,
    ),
    c(
        "Attention",
        r(1, 2, 3, 4),
        r(1, 2, 3, 4, seed=1),
        r(1, 2, 3, 4, seed=2),
        r(3, 5),
        r(1, 2, 2, 4, seed=3),
        r(1, 2, 2, 4, seed=4),
        opset=23,
        outputs=3,
        softcap=2.0,
    ),
]
ATTENTION += [
    c("RotaryEmbedding", r(1, 2, 3, 8), COS(ANGLES), SIN(ANGLES), i([0, 2, 5]), opset=23),
    c("RotaryEmbedding", r(1, 3, 16), COS(ANGLES), SIN(ANGLES), i([0, 2, 5]), opset=23, num_heads=2, interleaved=1),
    c("RotaryEmbedding", r(1, 2, 3, 8), COS(r(1, 3, 2)), SIN(r(1, 3, 2)), opset=23, rotary_embedding_dim=4),
]

FUSED = [
    c("BiasGelu", r(3, 4), r(4), domain=MS),
    c("FastGelu", r(3, 4), r(4), domain=MS),
    c("Gelu", r(3, 4), domain=MS),
    c("QuickGelu", r(3, 4), domain=MS),
    c("FusedMatMul", r(2, 3, 4), r(2, 5, 4), domain=MS, transB=1, alpha=0.5),
    c("FusedMatMul", r(3, 2, 4), r(2, 4, 5), domain=MS, transBatchA=1),
    c("TransposeMatMul", r(4, 3), r(4, 5), domain=MS, transA=1),
    c("FusedGemm", r(3, 4), r(4, 2), r(2), domain=MS, activation="Relu"),
    c("FusedConv", r(1, 2, 5, 5), r(3, 2, 2, 2), r(3), domain=MS, activation="LeakyRelu", activation_params=[0.1]),
    c(
        "SkipLayerNormalization",
        r(2, 3, 4),
        r(2, 3, 4, seed=1),
        r(4),
        r(4, seed=2),
        r(4, seed=3),
        domain=MS,
        epsilon=1e-5,
    ),
    c("SkipSimplifiedLayerNormalization", r(2, 3, 4), r(2, 3, 4, seed=1), r(4), r(4, seed=3), domain=MS, epsilon=1e-5),
    c("SimplifiedLayerNormalization", r(2, 3, 4), r(4), domain="", opset=17, axis=-1),
    c(
        "EmbedLayerNormalization",
        i([1, 2, 3], dtype=np.int32),
        i([0, 1, 1], dtype=np.int32),
        r(5, 4),
        r(4, 4),
        r(2, 4),
        r(4),
        r(4, seed=1),
        i([1, 1, 0], dtype=np.int32),
        domain=MS,
        outputs=2,
        epsilon=1e-5,
    ),
]
PACKED = r(2, 3, 8), r(8, 24), r(24)
FUSED += [
    c("Attention", *PACKED, domain=MS, num_heads=2),
    c("Attention", *PACKED, i(2, 3, dtype=np.int32), domain=MS, num_heads=2),
    c("Attention", *PACKED, i([1, 1, 0], [1, 1, 1], dtype=np.int32), domain=MS, num_heads=2, mask_filter_value=-1e4),
    c("Attention", *PACKED, domain=MS, num_heads=2, unidirectional=1),
    c("Attention", r(2, 3, 8), r(8, 20), r(20), domain=MS, num_heads=2, qkv_hidden_sizes=[6, 6, 8]),
    c("Attention", *PACKED, None, r(2, 2, 2, 5, 4), domain=MS, num_heads=2, outputs=2),
    c("Attention", *PACKED, None, None, r(2, 2, 3, 3), domain=MS, num_heads=2),
]
QKV = r(2, 3, 8), r(2, 5, 8, seed=1), r(2, 5, 8, seed=2)
FUSED += [
    c("MultiHeadAttention", *QKV, domain=MS, num_heads=2),
    c("MultiHeadAttention", *QKV, r(24), domain=MS, num_heads=2, scale=0.3),
    c("MultiHeadAttention", *QKV, None, i(3, 5, dtype=np.int32), domain=MS, num_heads=2),
    c("MultiHeadAttention", *QKV, None, i([1, 1, 1, 0, 0], [1, 1, 1, 1, 0], dtype=np.int32), domain=MS, num_heads=2),
    c("MultiHeadAttention", *QKV, None, None, r(2, 2, 3, 5), domain=MS, num_heads=2),
    c(
        "MultiHeadAttention",
        r(2, 3, 8),
        r(2, 3, 8),
        r(2, 3, 8),
        None,
        None,
        None,
        r(2, 2, 2, 4),
        r(2, 2, 2, 4, seed=1),
        domain=MS,
        num_heads=2,
        outputs=3,
    ),
]
LENGTHS = i(2, 2, dtype=np.int32), i(3, dtype=np.int32)[0]
FUSED += [
    c(
        "GroupQueryAttention",
        r(2, 3, 32),
        r(2, 3, 16),
        r(2, 3, 16),
        None,
        None,
        *LENGTHS,
        domain=MS,
        num_heads=4,
        kv_num_heads=2,
        outputs=3,
    ),
    c(
        "GroupQueryAttention",
        r(2, 3, 64),
        None,
        None,
        None,
        None,
        *LENGTHS,
        domain=MS,
        num_heads=4,
        kv_num_heads=2,
        outputs=3,
    ),
    c(
        "GroupQueryAttention",
        r(2, 3, 64),
        r(2, 3, 32),
        r(2, 3, 32),
        None,
        None,
        *LENGTHS,
        COS(r(6, 8)),
        SIN(r(6, 8)),
        domain=MS,
        num_heads=4,
        kv_num_heads=2,
        do_rotary=1,
        outputs=3,
    ),
    c(
        "GroupQueryAttention",
        r(2, 3, 32),
        r(2, 3, 16),
        r(2, 3, 16),
        None,
        None,
        *LENGTHS,
        domain=MS,
        num_heads=4,
        kv_num_heads=2,
        outputs=3,
        local_window_size=2,
        softcap=3.0,
    ),
    c(
        "GroupQueryAttention",
        r(2, 1, 32),
        r(2, 1, 16),
        r(2, 1, 16),
        r(2, 2, 4, 8),
        r(2, 2, 4, 8, seed=1),
        i(4, 4, dtype=np.int32),
        i(5, dtype=np.int32)[0],
        domain=MS,
        num_heads=4,
        kv_num_heads=2,
        outputs=3,
    ),
]
FUSED += [
    c("RotaryEmbedding", r(1, 2, 3, 8), i([0, 2, 5]), COS(ANGLES), SIN(ANGLES), domain=MS),
    c("RotaryEmbedding", r(1, 3, 16), i(2), COS(ANGLES), SIN(ANGLES), domain=MS, interleaved=1),
]
FUSED += [
    c("DynamicQuantizeMatMul", r(3, 4), w(4, 5), r(5, low=0.01), np.zeros(5, np.int8), r(5), domain=MS, smooth=False),
    c(
        "MatMulIntegerToFloat",
        w(3, 4, dtype=np.uint8),
        w(4, 5),
        SCALE,
        r(5, low=0.01),
        ZERO,
        np.zeros(5, np.int8),
        r(5),
        domain=MS,
    ),
    c("MatMulNBits", r(3, 32), w(6, 2, 8, dtype=np.uint8), r(12, low=0.1), domain=MS, K=32, N=6, bits=4, block_size=16),
    c(
        "MatMulNBits",
        r(3, 32),
        w(6, 2, 16, dtype=np.uint8),
        r(12, low=0.1),
        w(6, 2, dtype=np.uint8),
        domain=MS,
        K=32,
        N=6,
        bits=8,
        block_size=16,
    ),
    c(
        "GatherBlockQuantized",
        w(5, 16, dtype=np.uint8),
        i([[4, 0], [2, 2]]),
        r(5, 2, low=0.1),
        domain=MS,
        bits=4,
        block_size=16,
        gather_axis=0,
        quantize_axis=1,
    ),
    c(
        "GatherBlockQuantized",
        w(5, 20, dtype=np.uint8),
        i([3, 1]),
        r(5, 3, low=0.1),
        w(5, 2, dtype=np.uint8),
        domain=MS,
        bits=4,
        block_size=16,
        gather_axis=0,
        quantize_axis=1,
    ),
    c(
        "GatherBlockQuantized",
        w(4, 6, 16, dtype=np.uint8),
        i([[3, 1], [0, 2]]),
        r(4, 6, 2, low=0.1),
        domain=MS,
        bits=4,
        block_size=16,
        gather_axis=0,
        quantize_axis=2,
    ),
    c(
        "GatherBlockQuantized",
        w(5, 32, dtype=np.uint8),
        i([3, 1]),
        r(5, 2, low=0.1),
        domain=MS,
        bits=8,
        block_size=16,
        gather_axis=0,
        quantize_axis=1,
    ),
    c("QuantizeLinear", r(3, 4), SCALE, ZERO, domain=MS, smooth=False),
    c("DequantizeLinear", w(3, 4, dtype=np.uint8), SCALE, ZERO, domain=MS),
]

# onnxruntime packs on other devices only.
Q3, KV2 = r(2, 3, 2, 3, 4), r(2, 5, 2, 2, 4)
ALONE = [
    c(
        "MultiHeadAttention",
        *(np.ascontiguousarray(Q3[:, :, :, at].reshape(2, 3, 8)) for at in range(3)),
        domain=MS,
        num_heads=2,
    ),
    c(
        "MultiHeadAttention",
        r(2, 3, 8),
        *(np.ascontiguousarray(KV2[:, :, :, at].reshape(2, 5, 8)) for at in range(2)),
        domain=MS,
        num_heads=2,
    ),
]
FUSED += [
    replace(c("MultiHeadAttention", Q3, domain=MS, num_heads=2), like=ALONE[0]),
    replace(c("MultiHeadAttention", r(2, 3, 8), KV2, domain=MS, num_heads=2), like=ALONE[1]),
]

CASES = [
    *UNARY,
    *BINARY,
    *LOGIC,
    *TYPES,
    *SHAPES,
    *LOOKUPS,
    *REDUCTIONS,
    *PRODUCTS,
    *NORMS,
    *POOLS,
    *RESIZES,
    *QUANTIZED,
    *RECURRENT,
    *ATTENTION,
    *FUSED,
]
