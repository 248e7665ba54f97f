"""A small graph through one rewrite, and both against each other."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx

from onnxprune.inference import drop_shapes, refresh_shapes
from onnxprune.model import Model, raise_opset, to_bytes
from onnxprune.protocol import Context
from onnxprune.runtime import observe_shapes, open_session
from onnxprune.streamlining import BY_NAME, Done
from tests.building import PROBES, Net

ROUNDS = 4


def rewritten(net: Net, model: Model, name: str) -> tuple[Model, Done]:
    """A copy with one rewrite carried out until it finds no more places."""
    places, note = 0, ""
    kept: tuple[tuple[str, str], ...] = ()
    for _ in range(ROUNDS):
        copy = model.copy()
        shapes = observe_shapes(model, [net.feeds(sizes) for sizes in PROBES])
        wish = BY_NAME[name].wish(copy, Context(shapes=shapes))
        if wish is None:
            break
        refresh_shapes(copy)
        done = BY_NAME[name].carry_out(copy, wish)
        if done.places and (model.graph.opset or 1) < BY_NAME[name].opset:
            model = raise_opset(model, BY_NAME[name].opset)
            continue
        places, kept, note = places + done.places, done.kept or kept, done.note or note
        copy.graph.cleanup(remove_unused_graph_inputs=False)
        drop_shapes(copy.graph)
        model = copy
        if not done.places:
            break
    else:
        raise AssertionError(f"{name} finds places again and again")
    return model, Done(places, kept, note)


def moved_by(net: Net, name: str, *, tolerance: float = 1e-5) -> tuple[Done, Counter[str]]:
    """Carry a rewrite out, hold that no output moves, at either level and other sizes; what is left, by operator."""
    model = net.model()
    result, done = rewritten(net, model, name)
    onnx.checker.check_model(to_bytes(result), full_check=True)
    for level in ("none", "default"):
        before, after = open_session(model, level=level), open_session(result, level=level)
        for feeds in net.checks():
            got = after.run(feeds)
            for output, wanted in before.run(feeds).items():
                scale = max(float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0)), 1e-6)
                assert got[output].shape == wanted.shape
                np.testing.assert_allclose(got[output], wanted, rtol=0, atol=tolerance * scale)
    return done, Counter(node.op for node in result.graph.nodes)
