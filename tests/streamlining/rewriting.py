"""A small graph through one rewrite, and both against each other."""

from __future__ import annotations

from collections import Counter

import numpy as np

from onnxprune.inference import drop_shapes, refresh_shapes
from onnxprune.model import Model
from onnxprune.runtime import open_session
from onnxprune.streamlining import BY_NAME, Done, Wish
from tests.building import Net


def rewritten(model: Model, name: str) -> tuple[Model, Done]:
    """A copy with one rewrite carried out."""
    copy = model.copy()
    refresh_shapes(copy)
    done = BY_NAME[name].carry_out(copy, Wish())
    copy.graph.cleanup(remove_unused_graph_inputs=False)
    drop_shapes(copy.graph)
    return copy, done


def moved_by(net: Net, name: str, *, tolerance: float = 1e-5) -> tuple[Done, Counter[str]]:
    """Carry a rewrite out, hold that no output moves, at either level and other sizes; what is left, by operator."""
    model = net.model()
    result, done = rewritten(model, name)
    for level in ("none", "default"):
        before, after = open_session(model, level=level), open_session(result, level=level)
        for feeds in net.checks():
            got = after.run(feeds)
            for output, wanted in before.run(feeds).items():
                scale = max(float(np.abs(wanted).max(initial=0.0)), 1e-6)
                assert got[output].shape == wanted.shape
                np.testing.assert_allclose(got[output], wanted, rtol=0, atol=tolerance * scale)
    again = rewritten(result, name)[1]
    assert again.places == 0
    return done, Counter(node.op for node in result.graph.nodes)
