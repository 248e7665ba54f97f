"""What a cut must equal: units zeroed at the input of every consumer, in a graph of the original sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.dimensions.keeping import Keeping
from onnxprune.dimensions.result import Dimensions
from onnxprune.dimensions.tracer import key_of
from onnxprune.dimensions.wiring import Wiring
from onnxprune.errors import Declined

# Their inputs were masked where they were quantized, before a zero became the zero point.
INTEGER = frozenset({"MatMulInteger"})


def mask(graph: gs.Graph, dimensions: Dimensions, removals: Mapping[int, Sequence[int]]) -> None:
    """Multiply the input of every consumer by 0 at the units to be masked and by 1 elsewhere, in place.

    Raises:
        Declined: as for a cut; or units lie on an axis of varying length.
    """
    keeping = Keeping(dimensions, removals)
    wiring = Wiring(graph)
    nodes = {key_of(node): node for node in graph.nodes}
    places = {
        (consumer.node, consumer.input, consumer.axis)
        for index in keeping.removed
        for consumer in dimensions.all[index].consumers
        if consumer.op not in INTEGER
    }
    for key, index, axis in sorted(places):
        axes = keeping.layout.read[key, index]
        kept = keeping.mask(axes[axis])
        if kept is None:
            raise Declined(f"units lie on a varying axis of an input of {key!r}")
        node = nodes[key]
        source = node.inputs[index]
        shape = [1] * len(axes)
        shape[axis] = len(kept)
        values = kept.astype(source.dtype or np.float32).reshape(shape)
        times, out = wiring.compute(
            "Mul", [source, wiring.constant(f"{source.name}.mask", values)], f"{source.name}.masked"
        )
        wiring.before(node, times)
        wiring.connect(node, index, out)
    wiring.finish()
