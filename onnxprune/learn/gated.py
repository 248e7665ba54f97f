"""Units that gates multiply where stored weights sum them up, and the same gates folded into those weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import torch

from onnxprune.dimensions import Dimension
from onnxprune.errors import Declined
from onnxprune.graph import constants, walk
from onnxprune.learn.call import Tensor
from onnxprune.learn.gates import HardConcrete
from onnxprune.learn.module import Slot
from onnxprune.model import Model
from onnxprune.sites import Site
from onnxprune.weights import Weight, find_weights

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Gated:
    """A place whose units have a gate each.

    Attributes:
        name: id of its site.
        units: how many.
        cost: numbers that go with one unit.
        stored: weights that sum the units: name -> (axis, [units, k] entries of each unit on it).
    """

    name: str
    units: int
    cost: int
    stored: Mapping[str, tuple[int, Array]]


def gated_units(model: Model, site: Site, dimension: Dimension) -> Gated:
    """The units of a site, gated in the rows of the weights that sum them.

    Raises:
        Declined: something else sums the units, or reads those weights.
    """
    weights = {weight.constant.name: weight for weight in find_weights(model.graph, model.overridable)}
    readers: dict[tuple[str, int], set[str]] = {}
    for consumer in dimension.consumers:
        if consumer.weight not in weights:
            raise Declined(f"{consumer.op} {consumer.node!r} sums the units without a stored floating-point weight")
        readers.setdefault((consumer.weight, consumer.weight_axis), set()).add(consumer.node)
    entries = {(member.tensor, member.axis): np.asarray(member.elements) for member in dimension.members}
    stored = {}
    for (name, axis), nodes in readers.items():
        _refuse_others(weights[name], nodes)
        stored[name] = (axis, entries[name, axis])
    return Gated(site.id, dimension.units, max(1, site.unit_size), stored)


def _refuse_others(weight: Weight, nodes: set[str]) -> None:
    strangers = [node.outputs[0].name for node in weight.others]
    strangers += [use.name for use in weight.uses if use.name not in nodes]
    if strangers or weight.given_out:
        reader = strangers[0] if strangers else "an output"
        raise Declined(f"weight {weight.constant.name!r} is read by {reader!r}, too")


class Gates:
    """One logit a unit, trained beside the weights.

    Attributes:
        places: that are gated, in order.
        law: of every gate.
        logits: [units] of each place.
    """

    def __init__(
        self, places: Sequence[Gated], graph: gs.Graph, law: HardConcrete, *, start: float, spread: float, seed: int
    ) -> None:
        """Set every logit near `start`, normally spread by `spread`."""
        generator = torch.Generator().manual_seed(seed)
        self.places = tuple(places)
        self.law = law
        self.logits = tuple(
            torch.nn.Parameter(start + spread * torch.randn(place.units, generator=generator)) for place in places
        )
        self._slots = {name: tuple(_slots(graph, name)) for place in places for name in place.stored}

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """What is stepped, by name."""
        return {f"gates/{place.name}": logit for place, logit in zip(self.places, self.logits, strict=True)}

    def drawn(self) -> list[Tensor]:
        """Random gates, from torch's own generator."""
        return [self.law.draw(logit) for logit in self.logits]

    def open_probabilities(self) -> list[Tensor]:
        """P(z != 0) of each place."""
        return [self.law.open_probability(logit) for logit in self.logits]

    def expected_cost(self) -> Tensor:
        """Numbers that are expected to stay."""
        sums = [place.cost * p.sum() for place, p in zip(self.places, self.open_probabilities(), strict=True)]
        return torch.stack(sums).sum()

    def settled(self) -> list[Array]:
        """Voita's gates at the test."""
        return [self.law.settled(logit.detach()).numpy().astype(np.float64) for logit in self.logits]

    def soft(self) -> list[Array]:
        """FLOP's gates at the test, none closed yet."""
        return [self.law.soft(logit.detach()).numpy().astype(np.float64) for logit in self.logits]

    def slots(self, values: Sequence[Tensor]) -> dict[Slot, Callable[[Tensor], Tensor]]:
        """What the module does with the gated weights wherever they are read."""
        found: dict[Slot, Callable[[Tensor], Tensor]] = {}
        for place, value in zip(self.places, values, strict=True):
            for name, (axis, elements) in place.stored.items():
                for slot in self._slots[name]:
                    # A weight may hold the units of several places.
                    found[slot] = _then(found.get(slot), _scaled(axis, elements, value))
        return found


def _slots(graph: gs.Graph, name: str) -> Iterator[Slot]:
    for _, node in walk(graph):
        for slot, tensor in enumerate(node.inputs):
            if tensor.name == name:
                yield node.outputs[0].name, slot


def _scaled(axis: int, elements: Array, value: Tensor) -> Callable[[Tensor], Tensor]:
    where = torch.from_numpy(np.asarray(elements, np.int64))

    def gate(weight: Tensor) -> Tensor:
        vector = torch.ones(weight.shape[axis], dtype=weight.dtype, device=weight.device)
        spread = value.to(weight)[:, None].expand(where.shape)
        vector = vector.index_put((where.to(weight.device),), spread)
        shape = [1] * weight.dim()
        shape[axis] = -1
        return weight * vector.reshape(shape)

    return gate


def _then(first: Callable[[Tensor], Tensor] | None, second: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return second if first is None else lambda weight: second(first(weight))


def folded(model: Model, places: Sequence[Gated], values: Sequence[Array]) -> Model:
    """A copy of the model whose weights hold the gates: rows of closed units are zero, others scaled.

    Args:
        model: with the weights that the gates were trained with.
        places: that are gated.
        values: [units] of each place.
    """
    copy = model.copy()
    held = {constant.name: constant for constant in constants(copy.graph)}
    for place, value in zip(places, values, strict=True):
        for name, (axis, elements) in place.stored.items():
            constant = held[name]
            vector = np.ones(constant.shape[axis])
            vector[elements] = value[:, None]
            shape = [1] * len(constant.shape)
            shape[axis] = -1
            constant.values = (constant.values * vector.reshape(shape)).astype(constant.values.dtype)
    return copy
