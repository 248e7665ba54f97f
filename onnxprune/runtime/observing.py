"""Values and shapes of intermediate tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.graph import constants
from onnxprune.model import Model
from onnxprune.runtime.options import Level
from onnxprune.runtime.ports import Array, Feeds
from onnxprune.runtime.sessions import open_session


def observe(model: Model, feeds: Feeds, names: Sequence[str] | None = None, level: Level = "none") -> dict[str, Array]:
    """Values of intermediate tensors (all that the top graph computes, or those of `names`) for one feed."""
    session = open_session(with_outputs(model, names), level=level)
    return session.run(feeds)


def with_outputs(model: Model, names: Sequence[str] | None = None) -> Model:
    """A model that gives out intermediate tensors too, after its own outputs."""
    copy = model.copy()
    known = {t.name for t in copy.graph.outputs}
    wanted = None if names is None else set(names)
    for node in copy.graph.nodes:
        for tensor in node.outputs:
            if tensor.name and tensor.name not in known and (wanted is None or tensor.name in wanted):
                known.add(tensor.name)
                # The runtime infers what is left open; a stale annotation would be refused.
                tensor.dtype = tensor.shape = None
                copy.graph.outputs.append(tensor)
    return copy


def observe_shapes(model: Model, probes: Sequence[Feeds]) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Each tensor's shape in each probe run, constants included; tensors that are no arrays are left out."""
    session = open_session(with_outputs(model), level="none")
    runs: list[dict[str, tuple[int, ...]]] = []
    for feeds in probes:
        values = session.run(feeds) | session.interface.fitted(feeds)
        runs.append({name: value.shape for name, value in values.items() if isinstance(value, np.ndarray)})
    shapes = {name: tuple(run[name] for run in runs) for name in runs[0] if all(name in run for run in runs)}
    for tensor in constants(model.graph):
        shapes[tensor.name] = (tuple(tensor.shape),) * len(probes)
    return shapes
