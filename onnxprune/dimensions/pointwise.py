"""Operators that treat every element alone: their operands' axes are the axes of the result."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxprune.dimensions.factors import is_one
from onnxprune.dimensions.tracer import Tracer, label, names

UNARY = names("""
    Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast Ceil Celu Clip Cos Cosh Dropout Elu Erf Exp Floor Gelu
    HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not QuickGelu Reciprocal Relu Round Selu
    Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu Trunc
""")
BROADCAST = names("""
    Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean
    Min Mod Mul Or PRelu Pow Sub Sum Where Xor
""")


def unary(t: Tracer, node: gs.Node) -> None:
    """One operand; Clip's bounds and Dropout's ratio are scalars, Dropout's mask has the data's axes."""
    axes = t.input(node, 0)
    for index in range(len(node.outputs)):
        t.unite_all(axes, t.output(node, index))


def broadcast(t: Tracer, node: gs.Node) -> None:
    """Any number of operands, aligned at the last axis."""
    output = t.output(node)
    for index in range(len(node.inputs)):
        t.broadcast(t.input(node, index), output)


def cast_like(t: Tracer, node: gs.Node) -> None:
    """The second operand gives its type alone."""
    t.unite_all(t.input(node, 0), t.output(node))


def biased(t: Tracer, node: gs.Node) -> None:
    """BiasGelu and FastGelu: the optional bias is a vector over the last axis."""
    output = t.output(node)
    t.unite_all(t.input(node, 0), output)
    t.broadcast(t.input(node, 1), output)


def quantize(t: Tracer, node: gs.Node) -> None:
    """QuantizeLinear, DequantizeLinear: scale and zero point are scalars, or vectors over one axis."""
    data, output = t.input(node, 0), t.output(node)
    t.unite_all(data, output)
    axis = int(node.attrs.get("axis", 1))
    for index in (1, 2):
        vector = t.input(node, index)
        if len(vector) == 1 and not is_one(vector[0].size) and -len(data) <= axis < len(data):
            t.unite(vector[0], data[axis])
        elif any(not is_one(factor.size) for factor in vector):
            for factor in (*data, *vector):
                t.pin(factor, f"{label(node)} scales it in blocks")


def dynamic_quantize(t: Tracer, node: gs.Node) -> None:
    """A range over everything, which holds 0 in any case: leaving zeros out does not move it."""
    axes = t.input(node, 0)
    t.unite_all(axes, t.output(node))
    for axis in range(len(axes)):
        t.consume(node, 0, axis)
