"""Units that gates multiply in the rows of the weights that sum them up: so they act, and so they are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from onnxprune.dimensions import Dimension
from onnxprune.errors import Declined
from onnxprune.learn.call import Tensor
from onnxprune.learn.gates import HardConcrete
from onnxprune.learn.module import OnnxModule
from onnxprune.model import Model
from onnxprune.sites import Site
from onnxprune.weights import Weight, find_weights

Array = np.ndarray[Any, Any]
# A stored weight's axis and the entries [units, k] of each unit on it.
Rows = tuple[int, Array]
# Gates [units] as numbers, or computed anew in each run, so that gradients of several runs can be added up.
Value = Callable[[], Tensor] | Array


@dataclass(frozen=True, eq=False)
class Gated:
    """A place whose units have a gate each.

    Attributes:
        name: id of its site.
        units: how many.
        cost: numbers that go with one unit.
        stored: the weights that sum the units, and where.
    """

    name: str
    units: int
    cost: int
    stored: Mapping[str, Rows]


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
        self,
        places: Sequence[Gated],
        law: HardConcrete,
        *,
        start: float,
        spread: float,
        seed: int,
        apart: Sequence[Array] | None = None,
    ) -> None:
        """Set every logit near `start`, normally spread by `spread`, and `apart` [units] of each place from it."""
        generator = torch.Generator().manual_seed(seed)
        self.places = tuple(places)
        self.law = law
        logits = [start + spread * torch.randn(place.units, generator=generator) for place in places]
        if apart is not None:
            logits = [one + torch.from_numpy(more).to(one) for one, more in zip(logits, apart, strict=True)]
        self.logits = tuple(torch.nn.Parameter(one) for one in logits)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """What is stepped, by name."""
        return {f"gates/{place.name}": logit for place, logit in zip(self.places, self.logits, strict=True)}

    def drawn(self) -> list[Value]:
        """Random gates, from torch's own generator: drawn now, and the same in every run until they are drawn again."""
        return [partial(self.law.at, logit, self.law.noise(logit)) for logit in self.logits]

    def open_probabilities(self) -> list[Tensor]:
        """P(z != 0) of each place."""
        return [self.law.open_probability(logit) for logit in self.logits]

    def expected_cost(self) -> Tensor:
        """Numbers that are expected to stay."""
        sums = [place.cost * p.sum() for place, p in zip(self.places, self.open_probabilities(), strict=True)]
        return torch.stack(sums).sum()

    @property
    def whole_cost(self) -> int:
        """Numbers of all units."""
        return sum(place.cost * place.units for place in self.places)

    def settled(self) -> list[Array]:
        """Voita's gates at the test."""
        return [_numbers(self.law.settled(logit)) for logit in self.logits]

    def soft(self) -> list[Array]:
        """FLOP's gates at the test, none closed yet."""
        return [_numbers(self.law.soft(logit)) for logit in self.logits]


def _numbers(values: Tensor) -> Array:
    array: Array = values.detach().cpu().numpy().astype(np.float64)
    return array


def show(module: OnnxModule, places: Sequence[Gated], values: Sequence[Value]) -> None:
    """Let the module read gated weights from now on; what is written back holds the gates, too.

    Args:
        module: whose views of those weights are set.
        places: that are gated.
        values: [units] of each.
    """
    held: dict[str, list[tuple[Rows, Value]]] = {}
    for place, value in zip(places, values, strict=True):
        for name, rows in place.stored.items():
            # A weight may hold the units of several places.
            held.setdefault(name, []).append((rows, value))
    module.views.update({name: _view(gates) for name, gates in held.items()})


def _view(gates: Sequence[tuple[Rows, Value]]) -> Callable[[Tensor], Tensor]:
    def gated(weight: Tensor) -> Tensor:
        for (axis, elements), value in gates:
            where = torch.from_numpy(np.asarray(elements, np.int64)).to(weight.device)
            now = value() if callable(value) else torch.from_numpy(value)
            spread = now.to(weight)[:, None].expand(where.shape)
            vector = torch.ones(weight.shape[axis]).to(weight).index_put((where,), spread)
            weight = weight * vector.reshape([-1 if at == axis else 1 for at in range(weight.dim())])
        return weight

    return gated
