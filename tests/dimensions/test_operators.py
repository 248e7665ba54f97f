"""Each operator and idiom: which dimensions it leaves, and that cutting them equals masking.

The expected lists hold (kind, units) in order of first appearance, derived beside each graph.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.building import Net
from tests.equality import BOUND, compare

Found = list[tuple[str, int]]
CASES: dict[str, tuple[Callable[[], Net], Found]] = {}


def case(*found: tuple[str, int]) -> Callable[[Callable[[], Net]], Callable[[], Net]]:
    """Register a graph with the dimensions that can be cut in it."""

    def register(build: Callable[[], Net]) -> Callable[[], Net]:
        CASES[build.__name__] = build, list(found)
        return build

    return register


def cuttable(net: Net) -> Found:
    return [(dimension.kind, dimension.units) for dimension in net.traced().dimensions.prunable]


def assert_every_cut_is_exact(net: Net) -> None:
    """Each dimension alone: one unit, all but one, and then one unit of all dimensions together."""
    held = net.traced()
    for dimension in held.dimensions.prunable:
        for units in ([dimension.units // 2], list(range(1, dimension.units))):
            error, moved = compare(held, {dimension.index: units}, net.checks())
            assert error <= BOUND, (dimension.kind, dimension.units, units)
            assert moved > BOUND, "masking that changes nothing proves nothing"
    together = {dimension.index: [0] for dimension in held.dimensions.prunable}
    error, _ = compare(held, together, net.checks())
    assert error <= BOUND


# -- linears ----------------------------------------------------------------------------------------------------------


@case(("neurons", 7))
def two_linears() -> Net:
    net = Net()
    x = net.input("x", ["b", "s", 6])
    net.output(net.linear(net.op("Relu", net.linear(x, 6, 7)), 7, 5))
    return net


@case(("neurons", 7))
def gemms_with_transposed_weights() -> Net:
    net = Net()
    x = net.input("x", ["b", 6])
    y = net.op("Gemm", x, net.weight(7, 6), net.weight(7), transB=1)
    net.output(net.op("Gemm", y, net.weight(5, 7), transB=1, alpha=0.5))
    return net


@case(("neurons", 7))
def weights_on_the_left() -> Net:
    """W2·tanh(W1·x): the summed axis is the last but one of the activation."""
    net = Net()
    x = net.input("x", ["b", 6, "s"])
    y = net.op("Tanh", net.op("MatMul", net.weight(7, 6), x))
    net.output(net.op("MatMul", net.weight(5, 7), y))
    return net


@case(("neurons", 7))
def weights_behind_transpose_identity_and_cast() -> Net:
    net = Net()
    x = net.input("x", ["b", 6])
    half = net.constant(np.random.default_rng(0).standard_normal((6, 7)).astype(np.float16))
    y = net.op("MatMul", x, net.op("Cast", half, to=1))
    w = net.op("Transpose", net.op("Identity", net.weight(5, 7)), perm=[1, 0])
    net.output(net.op("MatMul", net.op("Relu", y), w))
    return net


@case(("neurons", 6))
def a_packed_gate() -> Net:
    """[gate | up] in one matrix: half of 12 columns are 6 units of two columns each."""
    net = Net()
    x = net.input("x", ["b", 4])
    gate, up = net.op("Split", net.linear(x, 4, 12), outputs=2, axis=-1, num_outputs=2)
    net.output(net.linear(net.op("Mul", net.op("Sigmoid", gate), up), 6, 5))
    return net


@case(("neurons", 3), ("neurons", 4))
def a_concat_of_two_branches() -> Net:
    """The 7 inputs of the last linear are 3 units of one branch and 4 of the other, cut apart."""
    net = Net()
    x = net.input("x", ["b", 6])
    both = net.op("Concat", net.linear(x, 6, 3), net.linear(x, 6, 4), axis=1)
    net.output(net.linear(net.op("Tanh", both), 7, 5))
    return net


@case(("neurons", 3))
def rotated_halves() -> Net:
    """concat(-b, a) + [a, b]·w ties entry i of one half to entry i of the other: 3 pairs."""
    net = Net()
    x = net.input("x", ["b", 4])
    y = net.linear(x, 4, 6)
    a = net.op("Slice", y, net.constant([0]), net.constant([3]), net.constant([1]))
    b = net.op("Slice", y, net.constant([3]), net.constant([2**62]), net.constant([1]))
    turned = net.op("Concat", net.op("Neg", b), a, axis=1)
    net.output(net.linear(net.op("Add", turned, net.op("Mul", y, net.weight(6))), 6, 5))
    return net


@case(("neurons", 4))
def interleaved_halves() -> Net:
    """y[::2]·y[1::2]: 8 columns are 4 units x 2 lanes."""
    net = Net()
    x = net.input("x", ["b", 6])
    y = net.linear(x, 6, 8)
    lanes = [
        net.op("Slice", y, net.constant([at]), net.constant([8]), net.constant([1]), net.constant([2])) for at in (0, 1)
    ]
    net.output(net.linear(net.op("Mul", *lanes), 4, 5))
    return net


@case(("neurons", 7))
def a_sum_that_is_divided_by_a_computed_size() -> Net:
    """A mean written as sum / size: the divisor is read from a shape and stays what it was."""
    net = Net()
    x = net.input("x", ["b", 6])
    y = net.op("Relu", net.linear(x, 6, 7))
    size = net.op("Cast", net.op("Gather", net.op("Shape", y), net.constant([1])), to=1)
    net.output(net.op("Div", net.op("ReduceSum", net.op("Mul", y, net.weight(7)), net.constant([1])), size))
    return net


@case(("neurons", 7))
def a_tiled_and_an_expanded_vector() -> Net:
    """Tile and Expand state sizes of an axis that is cut."""
    net = Net()
    x = net.input("x", ["b", 6])
    y = net.linear(x, 6, 7)
    gain = net.op("Expand", net.weight(1, 1), net.constant([1, 7]))
    shift = net.op("Tile", net.weight(1, 1), net.constant([1, 7]))
    ones = net.op("ConstantOfShape", net.constant([7]))
    y = net.op("Add", net.op("Add", net.op("Mul", y, gain), shift), ones)
    net.output(net.linear(y, 7, 5))
    return net


@case(("neurons", 7))
def a_quantized_linear() -> Net:
    """QDQ around a weight, scales per column; dynamic quantization of the activation behind it."""
    net = Net()
    numbers = np.random.default_rng(0)
    x = net.input("x", ["b", 6])
    scale = net.constant(numbers.uniform(0.01, 0.02, 7).astype(np.float32))
    stored = net.constant(numbers.integers(-127, 127, (6, 7)).astype(np.int8))
    w = net.op("DequantizeLinear", stored, scale, net.constant(np.zeros(7, np.int8)), axis=1)
    y = net.op("Relu", net.op("MatMul", x, w))
    q, s, z = net.op("DynamicQuantizeLinear", y, outputs=3)
    w8 = net.constant(numbers.integers(0, 255, (7, 5)).astype(np.uint8))
    total = net.op("MatMulInteger", q, w8, z, net.constant(np.uint8(128)))
    net.output(net.op("Mul", net.op("Cast", total, to=1), s))
    return net


@case(("neurons", 5), ("neurons", 3))
def an_einsum_with_dots() -> Net:
    """`...a,abc->...bc` makes two axes of one projection; the second einsum sums over both."""
    net = Net()
    x = net.input("x", ["b", "s", 4])
    y = net.op("Tanh", net.op("Einsum", x, net.weight(4, 5, 3), equation="...a,abc->...bc"))
    net.output(net.op("Einsum", y, net.weight(5, 3, 6), equation="...bc,bcd->...d"))
    return net


# -- convolutions -----------------------------------------------------------------------------------------------------


def _conv(net: Net, x: str, c_in: int, c_out: int, *, group: int = 1, side: int = 3) -> str:
    weight = net.weight(c_out, c_in // group, side, side)
    return str(net.op("Conv", x, weight, net.weight(c_out), kernel_shape=[side] * 2, pads=[side // 2] * 4, group=group))


@case(("channels", 8))
def a_batch_norm_between_convolutions() -> Net:
    net = Net()
    y = _conv(net, net.input("x", ["b", 3, 6, 6]), 3, 8)
    positive = net.constant(np.random.default_rng(0).uniform(0.5, 2, 8).astype(np.float32))
    y = net.op("BatchNormalization", y, net.weight(8), net.weight(8), net.weight(8), positive)
    net.output(_conv(net, net.op("Relu", y), 8, 4))
    return net


@case(("channels", 8))
def channels_tied_by_a_residual() -> Net:
    """In x + f(x), what the last convolution of f gives is what the first one reads."""
    net = Net()
    y = net.op("Relu", _conv(net, net.input("x", ["b", 3, 6, 6]), 3, 8))
    net.output(_conv(net, net.op("Relu", net.op("Add", y, _conv(net, y, 8, 8))), 8, 4))
    return net


@case(("channels", 8))
def a_depthwise_convolution() -> Net:
    net = Net()
    y = _conv(net, net.input("x", ["b", 3, 6, 6]), 3, 8, side=1)
    y = net.op("Relu", _conv(net, y, 8, 8, group=8))
    net.output(_conv(net, y, 8, 4, side=1))
    return net


@case(("channels", 2), ("channels", 4), ("channels", 3))
def a_grouped_convolution() -> Net:
    """8 inputs are 2 groups x 4, 6 outputs 2 groups x 3: whole groups go, or the same entry of every group."""
    net = Net()
    y = net.op("Relu", _conv(net, net.input("x", ["b", 3, 6, 6]), 3, 8))
    y = net.op("Relu", _conv(net, y, 8, 6, group=2))
    net.output(_conv(net, y, 6, 4))
    return net


@case(("channels", 4))
def a_group_norm() -> Net:
    """12 channels in 4 groups of 3: whole groups pass, what lies within does not."""
    net = Net(opset=21)
    y = _conv(net, net.input("x", ["b", 3, 6, 6]), 3, 12)
    y = net.op("GroupNormalization", y, net.weight(12), net.weight(12), num_groups=4)
    net.output(_conv(net, y, 12, 5))
    return net


@case(("channels", 6))
def a_transposed_convolution() -> Net:
    net = Net()
    y = _conv(net, net.input("x", ["b", 3, 6, 6]), 3, 6)
    net.output(net.op("ConvTranspose", y, net.weight(6, 4, 2, 2), kernel_shape=[2, 2], strides=[2, 2]))
    return net


@case(("channels", 4))
def channels_flattened_into_a_linear() -> Net:
    """4 channels x 9 positions are 36 inputs: a channel is 9 rows of the linear."""
    net = Net()
    y = _conv(net, net.input("x", ["b", 3, 6, 6]), 3, 4)
    y = net.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    net.output(net.linear(net.op("Flatten", y), 36, 5))
    return net


@case(("channels", 2), ("channels", 3))
def a_channel_shuffle() -> Net:
    """6 channels laid out as 2 x 3 and swapped: both factors can be cut, each in step."""
    net = Net()
    y = net.reshape(_conv(net, net.input("x", ["b", 3, 4, 4]), 3, 6), 0, 2, 3, 4, 4)
    y = net.reshape(net.op("Transpose", y, perm=[0, 2, 1, 3, 4]), 0, 6, 4, 4)
    net.output(_conv(net, y, 6, 4))
    return net


@case(("channels", 3))
def a_pixel_shuffle() -> Net:
    """DepthToSpace: 12 channels are 2·2 positions x 3."""
    net = Net()
    y = net.op("DepthToSpace", _conv(net, net.input("x", ["b", 3, 4, 4]), 3, 12), blocksize=2, mode="DCR")
    net.output(_conv(net, y, 3, 4))
    return net


@case(("channels", 3))
def a_pixel_shuffle_of_columns() -> Net:
    net = Net()
    y = net.op("DepthToSpace", _conv(net, net.input("x", ["b", 3, 4, 4]), 3, 12), blocksize=2, mode="CRD")
    net.output(_conv(net, y, 3, 4))
    return net


@case(("channels", 5))
def a_resized_and_padded_image() -> Net:
    net = Net()
    y = _conv(net, net.input("x", ["b", 3, 4, 4]), 3, 5)
    sizes = net.op("Concat", net.op("Shape", y, end=1), net.constant([5, 8, 8]), axis=0)
    y = net.op("Resize", y, "", "", sizes, mode="nearest")
    y = net.op("Resize", y, "", net.constant(np.asarray([1, 1, 0.5, 0.5], np.float32)), mode="nearest")
    y = net.op("Pad", y, net.constant([0, 0, 1, 1, 0, 0, 1, 1]))
    net.output(_conv(net, y, 5, 4))
    return net


# -- attention --------------------------------------------------------------------------------------------------------


def _projections(net: Net, x: str, *widths: int) -> list[str]:
    return [net.linear(x, 6, width) for width in widths]


@case(("heads", 4), ("widths", 3))
def the_attention_of_opset_23() -> Net:
    """Three-dimensional inputs: heads are attributes; the values' width 3 is free, the keys' 2 sets the scale."""
    net = Net(opset=23)
    q, k, v = _projections(net, net.input("x", ["b", "s", 6]), 8, 8, 12)
    net.output(net.linear(net.op("Attention", q, k, v, q_num_heads=4, kv_num_heads=4), 12, 5))
    return net


@case(("heads", 2), ("heads", 3), ("widths", 2))
def the_grouped_attention_of_opset_23() -> Net:
    """6 query heads are 2 groups x 3; the mask has a head axis of 6."""
    net = Net(opset=23)
    x = net.input("x", ["b", 9, 6])
    q, k, v = _projections(net, x, 24, 8, 4)
    mask = net.weight(1, 6, 9, 9)
    net.output(net.linear(net.op("Attention", q, k, v, mask, q_num_heads=6, kv_num_heads=2), 12, 5))
    return net


@case(("heads", 4))
def the_merged_attention_of_onnxruntime() -> Net:
    """One weight [6, 24] = q, k, v of 4 heads x 2."""
    net = Net()
    x = net.input("x", ["b", "s", 6])
    y = net.op("Attention", x, net.weight(6, 24), net.weight(24), domain="com.microsoft", num_heads=4)
    net.output(net.linear(y, 8, 5))
    return net


@case(("heads", 4))
def the_merged_attention_with_stated_sizes() -> Net:
    net = Net()
    x = net.input("x", ["b", "s", 6])
    y = net.op(
        "Attention",
        x,
        net.weight(6, 28),
        net.weight(28),
        domain="com.microsoft",
        num_heads=4,
        qkv_hidden_sizes=[8, 8, 12],
    )
    net.output(net.linear(y, 12, 5))
    return net


@case(("heads", 4), ("widths", 3))
def the_multi_head_attention_of_onnxruntime() -> Net:
    """The bias holds q, k and v end to end: 8 + 8 + 12."""
    net = Net()
    q, k, v = _projections(net, net.input("x", ["b", "s", 6]), 8, 8, 12)
    y = net.op("MultiHeadAttention", q, k, v, net.weight(28), domain="com.microsoft", num_heads=4)
    net.output(net.linear(y, 12, 5))
    return net


@case(("heads", 2), ("heads", 3))
def the_grouped_query_attention_of_onnxruntime() -> Net:
    """6 query heads on 2 key-value heads of width 8; positions and lengths are constants for 9 positions."""
    net = Net()
    x = net.input("x", [2, 9, 6])
    q, k, v = _projections(net, x, 48, 16, 16)
    lengths = net.constant(np.asarray([8, 8], np.int32))
    total = net.constant(np.int32(9))
    y = net.op(
        "GroupQueryAttention", q, k, v, "", "", lengths, total, domain="com.microsoft", num_heads=6, kv_num_heads=2
    )
    net.output(net.linear(y, 48, 5))
    return net


@case(("heads", 4), ("widths", 4))
def a_rotary_embedding() -> Net:
    """Heads pass; the width 4 is rotated by position and stays, that of the values is free."""
    net = Net(opset=23)
    x = net.input("x", ["b", 9, 6])
    q, k, v = _projections(net, x, 16, 16, 16)
    cos, sin = net.weight(9, 2), net.weight(9, 2)
    positions = net.op(
        "Expand", net.constant([list(range(9))]), net.op("Concat", net.op("Shape", x, end=1), net.constant([9]), axis=0)
    )
    q, k = (net.op("RotaryEmbedding", each, cos, sin, positions, num_heads=4) for each in (q, k))
    y = net.op("Attention", q, k, v, q_num_heads=4, kv_num_heads=4)
    net.output(net.linear(y, 16, 5))
    return net


# -- vectors on the way -----------------------------------------------------------------------------------------------


@case(("neurons", 7))
def biased_activations_of_onnxruntime() -> Net:
    net = Net()
    y = net.op("MatMul", net.input("x", ["b", "s", 6]), net.weight(6, 7))
    y = net.op("BiasGelu", y, net.weight(7), domain="com.microsoft")
    y = net.op("FastGelu", y, net.weight(7), domain="com.microsoft")
    net.output(net.op("FusedMatMul", y, net.weight(5, 7), domain="com.microsoft", transB=1))
    return net


@case(("neurons", 7))
def a_fused_convolution_and_gemm() -> Net:
    net = Net()
    y = net.op(
        "FusedGemm",
        net.input("x", ["b", 6]),
        net.weight(6, 7),
        net.weight(7),
        domain="com.microsoft",
        activation="Relu",
    )
    net.output(net.linear(y, 7, 5))
    return net


@pytest.mark.parametrize("name", sorted(CASES))
def test_an_operator_leaves_the_right_dimensions(name: str) -> None:
    build, found = CASES[name]
    assert cuttable(build()) == found


@pytest.mark.parametrize("name", sorted(CASES))
def test_cutting_around_an_operator_equals_masking(name: str) -> None:
    assert_every_cut_is_exact(CASES[name][0]())
