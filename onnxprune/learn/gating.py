"""Training with gates: drawn and priced at first, then decided for good and folded into the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch

from onnxprune.errors import DataError, Declined
from onnxprune.learn.call import Tensor
from onnxprune.learn.factored import Factored
from onnxprune.learn.gated import Gated, Gates, Value, gated_units, show
from onnxprune.learn.gates import polarised, within_budget
from onnxprune.learn.lagrangian import Lagrangian
from onnxprune.learn.procedure import Group, Procedure
from onnxprune.learn.trainee import Trainee
from onnxprune.removal import dimension_of
from onnxprune.runtime import Array
from onnxprune.sites import Site, find_sites

Decide = Callable[[Gates], list[Array]]
# Prices are looked at so many times in a run.
_NOTES = 20


class Price(Protocol):
    """What gates pay for being open."""

    @property
    def prices(self) -> torch.nn.Parameter | None:
        """Multipliers that find themselves; None where there are none."""

    def of(self, gates: Gates, step: int) -> Tensor:
        """What is added to the loss of a step."""
        ...


class FixedPrice:
    """Voita's: lambda times the mean over layers of the expected number of open gates."""

    prices: torch.nn.Parameter | None = None

    def __init__(self, price: float) -> None:
        self._price = price

    def of(self, gates: Gates, step: int) -> Tensor:
        """The same at every step."""
        del step
        return self._price * torch.stack([p.sum() for p in gates.open_probabilities()]).mean()


class SizePrice:
    """FLOP's: a Lagrangian on the share of a whole that is expected to be gone."""

    def __init__(self, whole: float, target: float, warmup: int) -> None:
        """Price the miss of a target.

        Args:
            whole: numbers that the expected cost is a share of.
            target: share that is to go.
            warmup: steps over which the target rises.
        """
        self._whole = whole
        self._lagrangian = Lagrangian(target=target, warmup=warmup)

    @property
    def prices(self) -> torch.nn.Parameter | None:
        """l1 and l2."""
        return self._lagrangian.prices

    def of(self, gates: Gates, step: int) -> Tensor:
        """Of the share that is expected to be gone."""
        return self._lagrangian.penalty(1 - gates.expected_cost() / self._whole, step)


class GateTraining(Procedure):
    """Gates are drawn in each step until they are decided; from then on they stay and weights alone are trained."""

    def __init__(self, trainee: Trainee, gates: Gates, price: Price, decide: Decide, *, rate: float, at: int) -> None:
        """Gate the weights of the form in training.

        Args:
            trainee: in training.
            gates: of its weights.
            price: of open gates.
            decide: what gates are in the end.
            rate: of logits and prices.
            at: step at which they are decided.
        """
        self.trainee = trainee
        self.gates_of_units = gates
        self.values: list[Array] | None = None
        self._price = price
        self._decide = decide
        self._rate = rate
        self._at = at
        self._trace: list[list[float]] = []
        self._settled: list[Array] = []

    def groups(self) -> Sequence[Group]:
        """Logits, which descend, and prices, which climb."""
        groups = [Group(parameters=self.gates_of_units.parameters(), rate=self._rate, scheduled=False)]
        prices = self._price.prices
        if prices is not None:
            named = {"gates/prices": prices}
            groups.append(Group(parameters=named, rate=self._rate, ascends=True, scheduled=False))
        return groups

    def before_step(self, step: int) -> None:
        """Draw gates, or decide them."""
        gates = self.gates_of_units
        if step % max(1, self._at // _NOTES) == 0 and self.values is None:
            self._note(step)
        if self.values is None and step >= self._at:
            self._settled = gates.settled()
            self.values = self._decide(gates)
            self.decided(self.values)
        self._show(gates.drawn() if self.values is None else self.values)

    def decided(self, values: Sequence[Array]) -> None:
        """Once gates are decided, before weights are trained with them."""

    def penalties(self, step: int) -> Mapping[str, Tensor]:
        """The price of open gates, while there is a choice."""
        return {"size": self._price.of(self.gates_of_units, step)} if self.values is None else {}

    def ready(self, step: int) -> bool:
        """Once gates are decided."""
        del step
        return self.values is not None

    @contextmanager
    def judging(self) -> Iterator[None]:
        """Gates as they would be written now."""
        self._show(self._decide(self.gates_of_units) if self.values is None else self.values)
        yield

    def _show(self, values: Sequence[Value]) -> None:
        show(self.trainee.module, self.gates_of_units.places, values)

    def _note(self, step: int) -> None:
        gates, prices = self.gates_of_units, self._price.prices
        share = gates.expected_cost().item() / gates.whole_cost
        held = [] if prices is None else [float(price) for price in prices.detach()]
        self._trace.append([float(step), share, *held])

    def state(self) -> dict[str, Array]:
        """Decided gates, and how they came about."""
        held = {f"value/{at}": value for at, value in enumerate(self.values or ())}
        held |= {f"settled/{at}": value for at, value in enumerate(self._settled)}
        return held | {"trace": np.array(self._trace)}

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Continue from there."""
        count = len(self.gates_of_units.places)
        if "value/0" in arrays:
            self.values = [arrays[f"value/{at}"] for at in range(count)]
            self._settled = [arrays[f"settled/{at}"] for at in range(count)]
        self._trace = [[float(value) for value in row] for row in arrays.get("trace", np.zeros((0, 0)))]

    def summary(self) -> dict[str, Any]:
        """Units that stay, how decided the gates were before they were decided, and the way there."""
        places = self.gates_of_units.places
        values = self.values or self._decide(self.gates_of_units)
        kept = [np.flatnonzero(value) for value in values]
        whole = self.gates_of_units.whole_cost
        return {
            "kept": {place.name: [int(unit) for unit in units] for place, units in zip(places, kept, strict=True)},
            "units": {place.name: place.units for place in places},
            "share": sum(place.cost * len(units) for place, units in zip(places, kept, strict=True)) / whole,
            "polarised": polarised(np.concatenate(self._settled or [np.zeros(0)])),
            "trace": [
                dict(zip(("step", "expected_share", "price", "price_of_square"), row, strict=False))
                for row in self._trace
            ],
        }


class FactoredTraining(GateTraining):
    """Gates on the components of pairs."""

    def __init__(
        self,
        trainee: Trainee,
        gates: Gates,
        price: Price,
        decide: Decide,
        *,
        rate: float,
        at: int,
        form: Factored,
    ) -> None:
        """Gate a model that was factored."""
        super().__init__(trainee, gates, price, decide, rate=rate, at=at)
        self.form = form

    def summary(self) -> dict[str, Any]:
        """Ranks instead of single components, and the size as a share of what was factored."""
        held = super().summary()
        ranks = {name: len(units) for name, units in held.pop("kept").items()}
        whole = self.gates_of_units.whole_cost
        return {**held, "ranks": ranks, "share": held["share"] * whole / self.form.whole, "numbers": self.form.whole}


def rounded(count: int) -> Decide:
    """Gates as 0 or 1: the most open ones stay, or those above a half where no count is given."""

    def decide(gates: Gates) -> list[Array]:
        if not count:
            return [np.where(value > 0.5, 1.0, 0.0) for value in gates.settled()]
        # By probability: of gates that are closed already some may have to stay.
        p = [value.detach().cpu().numpy().astype(np.float64) for value in gates.open_probabilities()]
        return [kept.astype(np.float64) for kept in within_budget(p, [1.0] * len(p), count)]

    return decide


def heads_of(trainee: Trainee, method: str) -> tuple[list[Gated], list[Site]]:
    """Every attention's heads, gated where they are summed, and their sites.

    Raises:
        DataError: there is none that could be.
    """
    refused, places, sites = [], [], []
    for site in find_sites(trainee.model, trainee.structure):
        if site.kind != "heads" or site.grouped:
            continue
        try:
            places.append(_heads(trainee, site))
        except Declined as reason:
            refused.append(f"{site.id}: {reason}")
            continue
        sites.append(site)
    if not places:
        why = f" ({refused[0]})" if refused else ""
        raise DataError(f"{method}: the model must have attention heads that can be gated, it has none{why}.")
    return places, sites


def _heads(trainee: Trainee, site: Site) -> Gated:
    if site.pinned:
        raise Declined(site.pinned)
    place = gated_units(trainee.model, site, dimension_of(site, trainee.structure))
    fixed = [name for name in place.stored if name not in trainee.parameters]
    if fixed:
        raise Declined(f"weight {fixed[0]!r} cannot be trained")
    return place
