"""Random graphs out of the operator table, with many ways to lay out units."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from tests.building import Net

WIDTH = 24  # of the residual stream
SIDE = 6


class Writer:
    """Writes one random graph.

    Every step reads the stream, [b, s, WIDTH] or [b, channels, SIDE, SIDE], and returns one of the same shape.
    """

    def __init__(self, seed: int) -> None:
        self.numbers = np.random.default_rng(seed)
        self.net = Net(seed)

    def pick(self, *choices: int) -> int:
        """One of several numbers."""
        return int(self.numbers.choice(choices))

    def flip(self) -> bool:
        """True half of the time."""
        return bool(self.numbers.integers(2))

    def sequence(self) -> Net:
        """Attention, feed-forward and mixed steps on [b, s, WIDTH]."""
        net = self.net
        x = net.input("x", ["b", "s", WIDTH])
        steps: list[Callable[[str], str]] = [self.attention, self.packed, self.grouped, self.feed_forward, self.gated]
        steps += [self.concatenated, self.segments, self.bottleneck, self.einsum]
        for _ in range(self.pick(1, 2, 3)):
            step = steps[int(self.numbers.integers(len(steps)))]
            y = step(self.normalised(x))
            x = net.op("Add", x, y) if self.flip() else y
        net.output(net.linear(x, WIDTH, 5))
        return net

    def normalised(self, x: str) -> str:
        """LayerNormalization, a decomposed one, or none."""
        net, kind = self.net, self.pick(0, 1, 2)
        if kind == 0:
            return str(net.op("LayerNormalization", x, net.weight(WIDTH), net.weight(WIDTH), axis=-1))
        if kind == 1:
            centred = net.op("Sub", x, net.op("ReduceMean", x, net.constant([-1])))
            variance = net.op("ReduceMean", net.op("Mul", centred, centred), net.constant([-1]))
            root = net.op("Sqrt", net.op("Add", variance, net.constant(np.float32(1e-3))))
            return str(net.op("Mul", net.op("Div", centred, root), net.weight(WIDTH)))
        return x

    def activation(self, x: str) -> str:
        """Pointwise, zero not always kept."""
        kind = ("Relu", "Sigmoid", "Erf", "Tanh", "Softplus", "Exp")[self.pick(0, 1, 2, 3, 4)]
        return str(self.net.op(kind, x))

    def divided(self, x: str, heads: int, width: int) -> str:
        """[b, s, heads·width] -> [b, heads, s, width], by a literal shape or a computed one."""
        net = self.net
        if self.flip():
            x = net.reshape(x, 0, 0, heads, width) if self.flip() else net.reshape(x, 0, -1, heads, width)
        else:
            lead = net.op("Slice", net.op("Shape", x), net.constant([0]), net.constant([2]))
            x = net.op("Reshape", x, net.op("Concat", lead, net.constant([heads, width]), axis=0))
        return str(net.op("Transpose", x, perm=[0, 2, 1, 3]))

    def merged(self, x: str, heads: int, width: int) -> str:
        """[b, heads, s, width] -> [b, s, heads·width]."""
        net = self.net
        x = net.op("Transpose", x, perm=[0, 2, 1, 3])
        if self.flip():
            return net.reshape(x, 0, 0, heads * width)
        shape = net.op("Shape", x)
        lead = net.op("Slice", shape, net.constant([0]), net.constant([2]))
        last = net.op("Mul", *(net.op("Gather", shape, net.constant([at])) for at in (2, 3)))
        return str(net.op("Reshape", x, net.op("Concat", lead, last, axis=0)))

    def attend(self, parts: Iterable[str], heads: int, width: int) -> str:
        """Scores, softmax, values, back to the stream. The scale may be computed from a shape."""
        net = self.net
        q, k, v = parts
        if self.flip():
            size = net.op("Gather", net.op("Shape", q), net.constant([3]))
            scale = net.op("Sqrt", net.op("Cast", size, to=1))
        else:
            scale = net.constant(np.float32(width**0.5))
        scores = net.op("Div", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), scale)
        if self.flip():
            scores = net.op("Mul", scores, net.weight(1, heads, 1, 1))
        mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
        return net.linear(self.merged(mixed, heads, width), heads * width, WIDTH)

    def attention(self, x: str) -> str:
        """Separate projections."""
        heads, width = self.pick(2, 3, 4, 6), self.pick(2, 4, 5)
        q, k, v = (
            self.divided(self.net.linear(x, WIDTH, heads * width, bias=self.flip()), heads, width) for _ in range(3)
        )
        return self.attend((q, k, v), heads, width)

    def packed(self, x: str) -> str:
        """One projection for all three: [3, heads, width], [heads, 3, width], or segments of the last axis."""
        net, heads, width = self.net, self.pick(2, 3, 4), self.pick(2, 4, 5)
        y = net.linear(x, WIDTH, 3 * heads * width)
        kind = self.pick(0, 1, 2, 3)
        if kind == 0:
            parts = net.op("Split", y, net.constant([heads * width] * 3), outputs=3, axis=-1)
            return self.attend((self.divided(part, heads, width) for part in parts), heads, width)
        if kind == 1:
            y = net.op("Transpose", net.reshape(y, 0, 0, 3, heads, width), perm=[2, 0, 3, 1, 4])
            parts = [net.op("Gather", y, net.constant(np.int64(at)), axis=0) for at in range(3)]
            return self.attend(parts, heads, width)
        if kind == 2:
            y = net.op("Transpose", net.reshape(y, 0, 0, heads, 3, width), perm=[3, 0, 2, 1, 4])
            split = net.op("Split", y, outputs=3, axis=0, num_outputs=3)
            return self.attend((net.op("Squeeze", part, net.constant([0])) for part in split), heads, width)
        y = net.op("Transpose", net.reshape(y, 0, 0, heads, 3 * width), perm=[0, 2, 1, 3])
        bounds = [(width * at, width * (at + 1)) for at in range(3)]
        parts = [net.op("Slice", y, net.constant([a]), net.constant([b]), net.constant([3])) for a, b in bounds]
        return self.attend(parts, heads, width)

    def grouped(self, x: str) -> str:
        """Key-value heads repeated for a group of query heads."""
        net, groups, many, width = self.net, self.pick(2, 3), self.pick(2, 3), self.pick(2, 4)
        heads = groups * many
        q = self.divided(net.linear(x, WIDTH, heads * width), heads, width)
        k, v = (self.divided(net.linear(x, WIDTH, groups * width), groups, width) for _ in range(2))
        keys, values = self.repeated(k, groups, many, width), self.repeated(v, groups, many, width)
        return self.attend((q, keys, values), heads, width)

    def repeated(self, x: str, groups: int, many: int, width: int) -> str:
        """[b, groups, s, width] -> [b, groups·many, s, width]."""
        net = self.net
        if self.flip():
            return str(net.op("Gather", x, net.constant(np.repeat(np.arange(groups), many)), axis=1))
        y = net.op("Unsqueeze", x, net.constant([2]))
        y = net.op("Expand", y, net.constant([1, 1, many, 1, 1]))
        return net.reshape(y, 0, groups * many, -1, width)

    def feed_forward(self, x: str) -> str:
        """Two linears."""
        wide = self.pick(7, 16, 30)
        return self.net.linear(self.activation(self.net.linear(x, WIDTH, wide)), wide, WIDTH)

    def gated(self, x: str) -> str:
        """Two branches multiplied: separate weights, or halves of one."""
        net, wide = self.net, self.pick(6, 11)
        if self.flip():
            gate, up = net.linear(x, WIDTH, wide), net.linear(x, WIDTH, wide)
        else:
            gate, up = net.op("Split", net.linear(x, WIDTH, 2 * wide), net.constant([wide, wide]), outputs=2, axis=-1)
        return net.linear(net.op("Mul", self.activation(gate), up), wide, WIDTH)

    def concatenated(self, x: str) -> str:
        """Two branches end to end into one linear."""
        net, a, b = self.net, self.pick(3, 8), self.pick(5, 9)
        both = net.op("Concat", self.activation(net.linear(x, WIDTH, a)), net.linear(x, WIDTH, b), axis=-1)
        return net.linear(self.activation(both), a + b, WIDTH)

    def segments(self, x: str) -> str:
        """One linear whose parts go different ways; rotated halves like a rotary embedding's."""
        net, half = self.net, self.pick(3, 5)
        y = net.linear(x, WIDTH, 2 * half)
        first = net.op("Slice", y, net.constant([0]), net.constant([half]), net.constant([-1]))
        second = net.op("Slice", y, net.constant([half]), net.constant([2**62]), net.constant([-1]))
        turned = net.op("Concat", net.op("Neg", second), first, axis=-1)
        mixed = net.op("Add", net.op("Mul", y, net.weight(2 * half)), turned) if self.flip() else turned
        return net.linear(mixed, 2 * half, WIDTH)

    def bottleneck(self, x: str) -> str:
        """Gemm over flattened positions."""
        net, wide = self.net, self.pick(4, 10)
        flat = net.reshape(x, -1, WIDTH)
        y = net.op("Gemm", flat, net.weight(wide, WIDTH), net.weight(wide), transB=1)
        y = net.op("Gemm", self.activation(y), net.weight(wide, WIDTH), net.weight(WIDTH))
        return str(net.op("Reshape", y, net.op("Shape", x)))

    def einsum(self, x: str) -> str:
        """Projections with a head axis of their own."""
        net, heads, width = self.net, self.pick(2, 4), self.pick(3, 5)
        y = net.op("Einsum", x, net.weight(WIDTH, heads, width), equation="bsd,dhk->bhsk")
        y = net.op("Mul", self.activation(y), net.weight(heads, 1, width))
        return str(net.op("Einsum", y, net.weight(heads, width, WIDTH), equation="bhsk,hkd->bsd"))

    def image(self) -> Net:
        """Convolutions on [b, channels, SIDE, SIDE]."""
        net = self.net
        channels = self.pick(6, 8, 12)
        x = self.conv(net.input("x", ["b", 3, SIDE, SIDE]), 3, channels)
        steps = [self.residual, self.depthwise, self.grouped_conv, self.dense, self.squeezed, self.shuffled, self.norm]
        for _ in range(self.pick(1, 2, 3)):
            x = steps[int(self.numbers.integers(len(steps)))](x, channels)
        if self.flip():
            x = net.op("Flatten", net.op("GlobalAveragePool", x))
            net.output(net.linear(x, channels, 5))
        else:
            x = net.op("Flatten", net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]))
            net.output(net.linear(x, channels * SIDE * SIDE // 4, 5))
        return net

    def conv(self, x: str, c_in: int, c_out: int, side: int = 3, group: int = 1) -> str:
        """A convolution that keeps the image's side, perhaps normalised and activated."""
        net = self.net
        weight = net.constant(self.numbers.standard_normal((c_out, c_in // group, side, side)).astype(np.float32) / 4)
        inputs = [x, weight, *([net.weight(c_out)] if self.flip() else [])]
        y = net.op("Conv", *inputs, kernel_shape=[side] * 2, pads=[side // 2] * 4, group=group)
        if self.flip():
            y = self.norm(y, c_out)
        return self.activation(y)

    def norm(self, x: str, channels: int) -> str:
        """Batch, instance or group normalisation."""
        net, kind = self.net, self.pick(0, 1, 2)
        if kind == 0:
            positive = net.constant(self.numbers.uniform(0.5, 1.5, channels).astype(np.float32))
            vectors = [net.weight(channels) for _ in range(3)]
            return str(net.op("BatchNormalization", x, *vectors, positive))
        if kind == 1:
            return str(net.op("InstanceNormalization", x, net.weight(channels), net.weight(channels)))
        groups = self.pick(2, channels // 2)
        y = net.reshape(x, 0, groups, -1)
        y = net.op("InstanceNormalization", y, net.weight(groups), net.weight(groups))
        y = net.op("Reshape", y, net.op("Shape", x))
        return str(net.op("Mul", y, net.weight(channels, 1, 1)))

    def residual(self, x: str, channels: int) -> str:
        """Two convolutions around a narrower middle."""
        inner = self.pick(4, 7)
        return str(self.net.op("Add", x, self.conv(self.conv(x, channels, inner), inner, channels)))

    def depthwise(self, x: str, channels: int) -> str:
        """An inverted residual."""
        wide = self.pick(8, 10)
        y = self.conv(self.conv(x, channels, wide, side=1), wide, wide, group=wide)
        return self.conv(y, wide, channels, side=1)

    def grouped_conv(self, x: str, channels: int) -> str:
        """Groups, perhaps with a channel multiplier."""
        group, inside, out = 2, self.pick(2, 4), self.pick(2, 3)
        y = self.conv(self.conv(x, channels, group * inside, side=1), group * inside, group * out, group=group)
        return self.conv(y, group * out, channels, side=1)

    def dense(self, x: str, channels: int) -> str:
        """Concatenated with what it is computed from."""
        more = self.pick(3, 5)
        both = self.net.op("Concat", x, self.conv(x, channels, more), axis=1)
        return self.conv(both, channels + more, channels)

    def squeezed(self, x: str, channels: int) -> str:
        """Squeeze and excitation."""
        net, few = self.net, self.pick(3, 4)
        pooled = net.op("GlobalAveragePool", x)
        gate = net.op(
            "Conv",
            net.op("Relu", net.op("Conv", pooled, net.weight(few, channels, 1, 1))),
            net.weight(channels, few, 1, 1),
        )
        return str(net.op("Mul", x, net.op("Sigmoid", gate)))

    def shuffled(self, x: str, channels: int) -> str:
        """Channel shuffle."""
        net = self.net
        y = net.reshape(self.conv(x, channels, channels, side=1), 0, 2, channels // 2, SIDE, SIDE)
        y = net.op("Transpose", y, perm=[0, 2, 1, 3, 4])
        return self.conv(net.reshape(y, 0, channels, SIDE, SIDE), channels, channels, side=1)


def random_net(seed: int) -> Net:
    """A graph that the seed alone decides."""
    writer = Writer(seed)
    return writer.sequence() if seed % 2 else writer.image()
