"""Forms for integers of half a byte, and for scales that a block of inputs shares; weights that were solved before.

The lower half of each byte holds the earlier of two numbers, both plus 8, as onnxruntime's own operators have it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.int8 import FLOAT, Int8Writer
from onnxprune.rewrite import onnx_type
from onnxprune.weights import Use

Array = np.ndarray[Any, Any]

_OFFSET = 8
_INT32 = 6
# Activations in blocks of int8: several times as fast as in float32 where a product has few rows.
_ACCURACY_LEVEL = 4


def packed(numbers: Array) -> Array:
    """Two of [..., 2 m] int8 in [-8, 7] to a byte: [..., m] uint8."""
    halves = (numbers.astype(np.int16) + _OFFSET).astype(np.uint8)
    return np.asarray(halves[..., 0::2] | (halves[..., 1::2] << 4))


def pairs() -> Array:
    """[256, 2] int8: the two numbers of each byte."""
    every = np.arange(256)
    return np.stack([(every & 15) - _OFFSET, (every >> 4) - _OFFSET], axis=1).astype(np.int8)


def packed_rows(writer: Int8Writer, use: Use, table: gs.Constant, scale: gs.Constant, dtype: np.dtype[Any]) -> None:
    """An embedding whose rows are looked up packed; only they are unpacked, at run time, by standard operators.

    Args:
        writer: of the graph.
        use: the Gather, on axis 0.
        table: uint8 [rows, width / 2].
        scale: [rows, blocks], float16 or float32.
        dtype: the float type of the rows.
    """
    make, node, name = writer.rewriter, use.node, use.name
    indices, blocks, width = node.inputs[1], int(scale.shape[1]), 2 * int(table.shape[1])
    rows, steps, places, numbers = (make.variable(f"{name}.{part}") for part in ("packed", "scale", "byte", "int8"))
    shape, lengths, shaped = (make.variable(f"{name}.{part}") for part in ("shape", "lengths", "numbers"))
    cast_rows, floats = make.cast(shaped, onnx_type(dtype), f"{name}.float")
    sizes = [width] if blocks == 1 else [blocks, width // blocks]
    new = [
        make.node("Gather", [table, indices], [rows]),
        make.node("Gather", [scale, indices], [steps]),
        make.node("Cast", [rows], [places], to=_INT32),
        make.node("Gather", [make.shared("nibbles", pairs()), places], [numbers]),
        make.node("Shape", [indices], [shape]),
        make.node("Concat", [shape, make.shared("nibbles.row", np.array(sizes, np.int64))], [lengths], axis=0),
        make.node("Reshape", [numbers, lengths], [shaped]),
        cast_rows,
    ]
    if scale.dtype != dtype:
        cast_steps, steps = make.cast(steps, onnx_type(dtype), f"{name}.step")
        new.append(cast_steps)
    if blocks == 1:
        new.append(make.node("Mul", [floats, steps], [make.variable(f"{name}.row")]))
        make.replace(node, new)
        return
    one, whole, product = (make.variable(f"{name}.{part}") for part in ("steps", "whole", "product"))
    columns = make.variable(f"{name}.columns")
    new += [
        make.node("Concat", [shape, make.shared("nibbles.row", np.array([blocks, 1], np.int64))], [columns], axis=0),
        make.node("Reshape", [steps, columns], [one]),
        make.node("Mul", [floats, one], [product]),
        make.node("Concat", [shape, make.shared("nibbles.row", np.array([width], np.int64))], [whole], axis=0),
        make.node("Reshape", [product, whole], [make.variable(f"{name}.row")]),
    ]
    make.replace(node, new)


def block_rows(writer: Int8Writer, use: Use, table: gs.Constant, scale: gs.Constant, dtype: np.dtype[Any]) -> None:
    """The same by onnxruntime's own operator; one that other runtimes lack.

    Args:
        writer: of the graph.
        use: the Gather, on axis 0.
        table: uint8 [rows, width / 2].
        scale: [rows, blocks], float16 or float32.
        dtype: the float type of the rows.
    """
    make, node = writer.rewriter, use.node
    width, blocks = 2 * int(table.shape[1]), int(scale.shape[1])
    result = make.variable(f"{use.name}.row")
    attrs = {"bits": 4, "block_size": block_size(width, blocks), "gather_axis": 0, "quantize_axis": 1}
    new = [make.node("GatherBlockQuantized", [table, node.inputs[1], scale], [result], "com.microsoft", **attrs)]
    if scale.dtype != dtype:
        new.append(make.cast(result, onnx_type(dtype), f"{use.name}.cast")[0])
    make.replace(node, new)


def block_size(width: int, blocks: int) -> int:
    """Numbers that share a scale as onnxruntime counts them: a power of two, 16 at least, that makes `blocks`."""
    return max(16, 1 << (-(-width // blocks) - 1).bit_length())


def columns(numbers: Array, blocks: int, bits: int) -> Array:
    """int8 [k, n] as onnxruntime's own operator reads it: [n, blocks, bytes of one block] uint8."""
    k, n = numbers.shape
    split = np.ascontiguousarray(numbers.T).reshape(n, blocks, k // blocks)
    return packed(split) if bits == 4 else (split.astype(np.int16) + 128).astype(np.uint8)


def weight_only(
    writer: Int8Writer, use: Use, weight: gs.Constant, scale: gs.Constant, bits: int, dtype: np.dtype[Any]
) -> None:
    """MatMul or Gemm by onnxruntime's own operator that unpacks weights as it multiplies.

    Args:
        writer: of the graph.
        use: the MatMul or Gemm.
        weight: what `columns` gave.
        scale: float32 [n, blocks], each of as many inputs, a power of two from 16 on.
        bits: 8 or 4 that a number takes.
        dtype: the float type of the model around it.
    """
    make, node, name = writer.rewriter, use.node, use.name
    n, blocks, size = weight.shape
    size *= 8 // bits
    source, new = node.inputs[0], []
    if dtype != np.float32:
        cast, source = make.cast(source, FLOAT, f"{name}.float32")
        new.append(cast)
    result = make.variable(f"{name}.product")
    attrs = {"K": blocks * size, "N": n, "bits": bits, "block_size": size, "accuracy_level": _ACCURACY_LEVEL}
    new.append(make.node("MatMulNBits", [source, weight, scale], [result], "com.microsoft", **attrs))
    if dtype != np.float32:
        cast, result = make.cast(result, onnx_type(dtype), f"{name}.cast")
        new.append(cast)
    writer.biased(use, new, result, dtype)
    make.replace(node, new)


def stored_in_blocks(
    writer: Int8Writer, weight: gs.Constant, scale: gs.Constant, uses: list[Use], dtype: np.dtype[Any]
) -> None:
    """A weight that is int8 in the file, and float once the runtime has folded its scaling at load.

    Args:
        writer: of the graph.
        weight: int8 [k, n].
        scale: [blocks, 1, n], of type `dtype`.
        uses: the readers that get the float weight, all as x @ weight or all as x @ weight.T.
        dtype: its type.
    """
    make, name = writer.rewriter, weight.name
    blocks, (k, n) = int(scale.shape[0]), weight.shape
    split = make.constant(f"{name}.split", np.array([blocks, k // blocks, n], np.int64))
    whole = make.constant(f"{name}.whole", np.array([k, n], np.int64))
    cast, floats = make.cast(weight, onnx_type(dtype), f"{name}.float")
    parts, scaled, decoded = (make.variable(f"{name}.{part}") for part in ("blocks", "scaled", "decoded"))
    nodes = [
        cast,
        make.node("Reshape", [floats, split], [parts]),
        make.node("Mul", [parts, scale], [scaled]),
        make.node("Reshape", [scaled, whole], [decoded]),
    ]
    if uses[0].reads_transposed:
        turned = make.variable(f"{name}.turned")
        nodes.append(make.node("Transpose", [decoded], [turned], perm=[1, 0]))
        decoded = turned
    make.after(weight, nodes)
    writer.read_instead(uses, decoded)
