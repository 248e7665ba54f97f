"""Operators between fixed grids: QuantizeLinear and DequantizeLinear around them, which runtimes fuse to integers.

onnxruntime's own passes shape what stands here. It fuses a Conv only where input, weight, bias and output are all on
grids and the output has no other reader; and it rounds the float weights of a Conv or Gemm between two grids by itself,
with one scale for all channels, unless something keeps it from doing so.

Source: onnxruntime 1.31, optimizer/qdq_transformer: qdq_selectors, weight_bias_quantization.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph import producer
from onnxprune.rewrite import Rewriter, substitute
from onnxprune.solvers.quantize import affine_uint8
from onnxprune.weights import Use

Array = np.ndarray[Any, Any]
# Types of activations and weights. The integers differ by an offset of 128, and the results not at all but for what
# a kernel cuts off: x64 is fast at the first, ARM and XNNPACK take the others.
Signs = Literal["u8s8", "s8s8", "u8u8"]
SIGNS: tuple[Signs, ...] = ("u8s8", "s8s8", "u8u8")

_INT32 = np.iinfo(np.int32)
_OFFSET = 128
# Operators that onnxruntime quantizes by itself: where their inputs' channels lie.
_ROUNDED_BY_THE_RUNTIME = ("Conv", "ConvTranspose", "Gemm")


class GridWriter:
    """Puts operators of one graph between grids; a tensor is rounded once, and all that read it read it rounded."""

    def __init__(self, rewriter: Rewriter) -> None:
        self.rewriter = rewriter
        self._rounded: dict[str, gs.Tensor] = {}

    def convolution(
        self, use: Use, weight: Array, scale: Array, bias: Array | None, ranges: Mapping[str, Any], signs: Signs
    ) -> None:
        """Conv or ConvTranspose between two grids.

        Args:
            use: the reader.
            weight: int8, as stored.
            scale: float32 [n], of a Conv's output channels (axis 0), of a ConvTranspose's within a group (axis 1).
            bias: float32 [output channels], or None.
            ranges: `input` and `output`: [low, high]; `result`: the tensor that carries the output's range, behind an
                activation where one follows; `through`: tensors before it on the input's grid.
            signs: types of the integers.
        """
        node = use.node
        axis = 1 if node.op == "ConvTranspose" else 0
        groups = int(node.attrs.get("group", 1)) if axis == 1 else 1
        self._operate(use, weight, np.tile(scale, groups), bias, ranges, signs, axis=axis, weight_scale=scale)
        self.rounded(self._tensor(ranges["result"]), ranges["output"], signs)

    def product(
        self, use: Use, weight: Array, scale: Array, bias: Array | None, ranges: Mapping[str, Any], signs: Signs
    ) -> None:
        """MatMul or Gemm whose input is on a grid; what it gives out is float.

        Args:
            use: the reader; of a Gemm neither alpha nor beta may be left to apply.
            weight: int8, as stored.
            scale: float32 [n].
            bias: float32 [n] of a Gemm, or None.
            ranges: `input`: [low, high]; `through`.
            signs: types of the integers.
        """
        axis = 0 if use.reads_transposed else 1
        self._operate(use, weight, scale, bias, ranges, signs, axis=axis, weight_scale=scale)
        for name in ("alpha", "beta"):
            use.node.attrs.pop(name, None)

    def _operate(
        self,
        use: Use,
        weight: Array,
        scale: Array,
        bias: Array | None,
        ranges: Mapping[str, Any],
        signs: Signs,
        *,
        axis: int,
        weight_scale: Array,
    ) -> None:
        make, node = self.rewriter, use.node
        for name in ranges.get("through", ()):
            self.rounded(self._tensor(name), ranges["input"], signs)
        source = self.rounded(node.inputs[0], ranges["input"], signs)
        step = float(source.inputs[0].inputs[1].values)
        name = f"{node.inputs[1].name}"
        zero = (
            np.full(weight_scale.shape, _OFFSET, np.uint8) if signs == "u8u8" else np.zeros(weight_scale.shape, np.int8)
        )
        stored = (weight.astype(np.int16) + _OFFSET).astype(np.uint8) if signs == "u8u8" else weight
        decoded = make.variable(f"{name}.int8.decoded")
        operands = [
            make.shared(f"{name}.int8", stored),
            make.shared(f"{name}.scale", weight_scale),
            make.shared(f"{name}.int8.zero_point", zero),
        ]
        new = [make.node("DequantizeLinear", operands, [decoded], axis=axis)]
        inputs: list[gs.Tensor] = [source, decoded]
        if bias is not None:
            new.append(self._bias(use.name, bias, (scale.astype(np.float64) * step).astype(np.float32)))
            inputs.append(new[-1].outputs[0])
        make.before(node, new)
        node.inputs = inputs

    def _bias(self, name: str, bias: Array, steps: Array) -> gs.Node:
        """A bias in 32 bits, in products of both steps as the runtime's kernels want it."""
        make = self.rewriter
        integers = np.clip(np.rint(bias / steps.astype(np.float64)), _INT32.min, _INT32.max).astype(np.int32)
        operands = [
            make.constant(f"{name}.bias.int32", integers),
            make.constant(f"{name}.bias.scale", steps),
            make.constant(f"{name}.bias.zero_point", np.zeros(steps.shape, np.int32)),
        ]
        return make.node("DequantizeLinear", operands, [make.variable(f"{name}.bias")], axis=0)

    def _tensor(self, name: str) -> gs.Tensor:
        return self.rewriter.graph.tensors()[name]

    def rounded(self, tensor: gs.Tensor, ends: Sequence[float], signs: Signs) -> gs.Tensor:
        """`tensor` rounded to 8 bits between two ends; everything that reads it reads the rounded form from now on."""
        known = self._rounded.get(tensor.name)
        if known is not None:
            return known
        made_by = producer(tensor)
        if made_by is not None and made_by.op == "DequantizeLinear":
            return tensor
        for reader in tensor.outputs:
            if reader.op == "QuantizeLinear" and reader.outputs[0].outputs:
                return reader.outputs[0].outputs[0].outputs[0]
        make = self.rewriter
        scale, zero_point = affine_uint8(*ends)
        signed = signs == "s8s8"
        number = np.array(int(zero_point) - _OFFSET, np.int8) if signed else np.array(zero_point, np.uint8)
        step = make.constant(f"{tensor.name}.scale", np.array(scale, np.float32))
        zero = make.constant(f"{tensor.name}.zero_point", number)
        integers = make.variable(f"{tensor.name}.{number.dtype}")
        floats = make.variable(f"{tensor.name}.dequantized")
        readers = list(tensor.outputs)
        quantize = make.node("QuantizeLinear", [tensor, step, zero], [integers])
        dequantize = make.node("DequantizeLinear", [integers, step, zero], [floats])
        make.after(tensor, [quantize, dequantize])
        substitute(tensor, floats, readers)
        self._rounded[tensor.name] = floats
        return floats


def keep_floats(graph: gs.Graph) -> None:
    """Keep the runtime from rounding weights that are meant to stay in float: they read a grid of every channel.

    onnxruntime rounds float weights between two grids to one scale for the whole tensor, which ruins depthwise
    convolutions; it does not where the input's grid has a scale for every channel, all of them the same.
    """
    given_out = {id(tensor) for tensor in graph.outputs}
    spread: dict[tuple[str, int], gs.Tensor] = {}
    nodes: list[gs.Node] = []
    for node in graph.nodes:
        rounded = node.op in _ROUNDED_BY_THE_RUNTIME and not node.domain and _between_grids(node, given_out)
        channels = _channels(node) if rounded else None
        if channels is not None:
            decoder = node.inputs[0].inputs[0]
            key = (node.inputs[0].name, channels)
            if key not in spread:
                spread[key] = _spread(decoder, channels)
                nodes.append(spread[key].inputs[0])
            node.inputs = [spread[key], *node.inputs[1:]]
        nodes.append(node)
    graph.nodes = nodes


def _between_grids(node: gs.Node, given_out: set[int]) -> bool:
    decoder, weight = producer(node.inputs[0]), producer(node.inputs[1])
    if decoder is None or decoder.op != "DequantizeLinear" or decoder.inputs[1].shape not in ((), (1,)):
        return False
    if weight is not None and weight.op == "DequantizeLinear":
        return False
    tensor = node.outputs[0]
    while len(tensor.outputs) == 1 and id(tensor) not in given_out:
        reader = tensor.outputs[0]
        if reader.op == "QuantizeLinear":
            return True
        if reader.op not in {"Relu", "Clip"}:
            return False
        tensor = reader.outputs[0]
    return False


def _channels(node: gs.Node) -> int | None:
    """How many channels an operator reads; None where its weight is computed from more than constants."""
    weight = node.inputs[1]
    while not isinstance(weight, gs.Constant):
        made_by = producer(weight)
        if made_by is None or made_by.op not in {"Cast", "Mul"}:
            return None
        weight = made_by.inputs[0]
    if node.op == "Conv":
        return int(weight.shape[1]) * int(node.attrs.get("group", 1))
    transposed = node.op == "Gemm" and node.attrs.get("transB", 0)
    return int(weight.shape[1 if transposed else 0])


def _spread(decoder: gs.Node, channels: int) -> gs.Tensor:
    """What a DequantizeLinear gives out, from one with a scale for every channel."""
    integers, step, zero = decoder.inputs[:3]
    out = gs.Variable(f"{decoder.outputs[0].name}.of{channels}")
    steps = gs.Constant(f"{out.name}.scale", np.full(channels, step.values.reshape(-1)[0], step.values.dtype))
    zeros = gs.Constant(f"{out.name}.zero_point", np.full(channels, zero.values.reshape(-1)[0], zero.values.dtype))
    gs.Node("DequantizeLinear", name=out.name, inputs=[integers, steps, zeros], outputs=[out], attrs={"axis": 1})
    return out
