"""A model whose linears are products P·Q and whose tables are codes in clusters, gated at every inner component."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.calibration import collect
from onnxprune.errors import DataError, Declined
from onnxprune.graph import constants
from onnxprune.learn.gated import Gated
from onnxprune.learn.module import with_weights
from onnxprune.learn.trainee import Trainee
from onnxprune.linears import linear_of
from onnxprune.loss import few
from onnxprune.low_rank import refuse_constant
from onnxprune.model import Model
from onnxprune.passes import FactorEmbedding, FactorLinear
from onnxprune.plan import Edit
from onnxprune.protocol import Context
from onnxprune.runtime import Array
from onnxprune.sites import Site, find_sites
from onnxprune.solvers.lowrank import break_even_rank
from onnxprune.weights import Weight, find_weights

# Tables start with nearly as many numbers in codes as they have.
_WHOLE = 0.999


@dataclass(frozen=True, eq=False)
class Component:
    """One gated place: the inner components of a linear, or of one cluster of a table.

    Attributes:
        edit: that factors it.
        cluster: of a table; None for a linear.
        least: components that must stay.
        gated: the same as units: rows of the right factor, or of the projection.
        sizes: [components] their singular values.
    """

    edit: Edit
    cluster: int | None
    least: int
    gated: Gated
    sizes: Array

    def order(self) -> Array:
        """[components] logarithms of their singular values beside the middle one's, within one either way."""
        held = np.log(np.maximum(self.sizes, 1e-12))
        return np.asarray(np.clip(held - np.median(held), -1.0, 1.0))


@dataclass(frozen=True, eq=False)
class Factored:
    """A factored model.

    Attributes:
        original: unfactored.
        form: factored.
        components: in order.
        whole: numbers of the weights that were factored.
    """

    original: Model
    form: Model
    components: tuple[Component, ...]
    whole: int

    def result(self, trained: Model, values: Sequence[Array]) -> Model:
        """The original with trained weights, and with pairs of the components whose gates are open.

        Args:
            trained: the form with its gates folded.
            values: [components] of each place.
        """
        held = {constant.name: constant.values for constant in constants(trained.graph)}
        stay = {id(one): np.flatnonzero(value) for one, value in zip(self.components, values, strict=True)}
        linears, tables = [], []
        for edit in {id(one.edit): one.edit for one in self.components}.values():
            own = [one for one in self.components if one.edit is edit]
            if own[0].cluster is None:
                linears.append(_cut_pair(own[0], held, stay[id(own[0])]))
            else:
                tables.append(_cut_codes(own, held, [stay[id(one)] for one in own]))
        base = with_weights(self.original, held)
        if linears:
            base, _ = FactorLinear().apply(base, linears)
        return FactorEmbedding().apply(base, tables)[0] if tables else base


def factored(trainee: Trainee, *, tables: bool, sites: Sequence[str], method: str) -> Factored:
    """Pairs by SVD of as many numbers as each weight has, less one component where they would be more.

    Args:
        trainee: with the model as it came.
        tables: whether tables of embeddings, and heads tied to them, become codes in clusters by frequency, too.
        sites: ids of linears; all of them where none is named.
        method: for messages.

    Raises:
        DataError: nothing can be factored.
        OptionError: no such site.
    """
    model = trainee.model
    found = find_sites(model)
    weights = {weight.constant.name: weight for weight in find_weights(model.graph, model.overridable)}
    ranks = tuple(f"{site.id}/{rank}" for site, rank in _ranks(model, found, weights))
    pairs = (
        FactorLinear(method="svd", levels=ranks, faster=False).propose(model, found, Context()).edits if ranks else ()
    )
    if sites:
        FactorLinear(sites=tuple(sites)).needs(model, found)
        pairs = tuple(edit for edit in pairs if edit.site in sites)
    codes = _codes(trainee, found) if tables else ()
    if not pairs and not codes:
        raise DataError(f"{method}: the model must have a linear that a product of two could stand for, it has none.")
    form = FactorLinear().apply(model, pairs)[0] if pairs else model
    form = FactorEmbedding().apply(form, codes)[0] if codes else form
    names = {constant.name for constant in constants(form.graph)}
    components = [_of_pair(edit, weights[edit.args["weights"][0]], model, names) for edit in pairs]
    components += [one for edit in codes for one in _of_codes(edit)]
    whole = sum(weights[name].constant.values.size for edit in pairs for name in edit.args["weights"])
    whole += sum(weights[edit.args["table"]].constant.values.size for edit in codes)
    return Factored(model, form, tuple(components), whole)


def _ranks(model: Model, sites: Sequence[Site], weights: Mapping[str, Weight]) -> Iterator[tuple[Site, int]]:
    """Linears that can be factored, with the rank at which a pair has as many numbers, nearly."""
    for site in sites:
        if site.kind != "linear" or site.weight not in weights:
            continue
        try:
            rank = break_even_rank(*linear_of(site, weights[site.weight], model).matrix.shape)
        except Declined:
            continue
        if rank > 0:
            yield site, rank


def _codes(trainee: Trainee, sites: Sequence[Site]) -> tuple[Edit, ...]:
    one, model = FactorEmbedding(ratio=_WHOLE), trainee.model
    needs = one.needs(model, sites)
    feeds = few(trainee.samples.calibration, 512)
    statistics = collect(model, needs, feeds, mask=trainee.mask) if needs.tensors else None
    return one.propose(model, sites, Context(statistics=statistics)).edits


def _of_pair(edit: Edit, weight: Weight, model: Model, names: set[str]) -> Component:
    left, right = edit.tensors["left"], edit.tensors["right"]
    name = weight.constant.name
    rank = left.shape[1]
    axis = 1 if weight.uses[0].role == "conv" else 0
    stored = {_made(f"{name}.right", names): (axis, np.arange(rank)[:, None])}
    least = 0
    try:
        for use in weight.uses:
            refuse_constant(use, model)
    except Declined:
        least = 1
    gated = Gated(edit.site, rank, left.shape[0] + right.shape[1], stored)
    return Component(edit, None, least, gated, _sizes(left, right))


def _sizes(left: Array, right: Array) -> Array:
    """[r] of factors [k, r] and [r, n]."""
    norms = [np.linalg.norm(one.astype(np.float64), axis=axis) for axis, one in enumerate((left, right))]
    return np.asarray(norms[0] * norms[1])


def _of_codes(edit: Edit) -> Iterator[Component]:
    start = 0
    projection = f"{edit.args['table']}.projection"
    width = edit.tensors["projection"].shape[1]
    for cluster, tokens in enumerate(edit.args["tokens"]):
        rank = edit.tensors[f"codes.{cluster}"].shape[1]
        rows = {projection: (0, np.arange(start, start + rank)[:, None])}
        # Lookups of no numbers at all are no form of a table.
        gated = Gated(f"{edit.site}.{cluster}", rank, tokens + width, rows)
        part = edit.tensors["projection"][start : start + rank]
        yield Component(edit, cluster, 1, gated, _sizes(edit.tensors[f"codes.{cluster}"], part))
        start += rank


def _made(name: str, names: set[str]) -> str:
    """What a new constant was called: the name, or the first free one after it."""
    number, found = 0, name
    while f"{name}.{number + 1}" in names:
        number += 1
        found = f"{name}.{number}"
    return found


def _cut_pair(one: Component, held: Mapping[str, Array], stay: Array) -> Edit:
    names = set(held)
    right_name = next(iter(one.gated.stored))
    left, right = held[_made(f"{one.edit.args['weights'][0]}.left", names)], held[right_name]
    if one.gated.stored[right_name][0] == 1:
        # Convolutions store [rank, k, 1, …] and [n, rank, 1, …].
        left, right = (values.reshape(values.shape[:2]).T for values in (left, right))
    tensors = {"left": np.ascontiguousarray(left[:, stay]), "right": np.ascontiguousarray(right[stay])}
    return replace(one.edit, tensors=tensors)


def _cut_codes(clusters: Sequence[Component], held: Mapping[str, Array], stay: Sequence[Array]) -> Edit:
    edit, table = clusters[0].edit, clusters[0].edit.args["table"]
    tensors = {key: edit.tensors[key] for key in ("places",) if key in edit.tensors}
    rows = []
    for one, kept in zip(clusters, stay, strict=True):
        name = f"{table}.codes" if len(clusters) == 1 else f"{table}.codes.{one.cluster}"
        tensors[f"codes.{one.cluster}"] = np.ascontiguousarray(held[name][:, kept])
        rows.append(next(iter(one.gated.stored.values()))[1][kept, 0])
    tensors["projection"] = held[f"{table}.projection"][np.concatenate(rows)]
    return replace(edit, tensors=tensors)


Keep = Callable[[Sequence[Array]], list[Array]]


def filling(factored_model: Factored, share: float) -> Keep:
    """Which components stay of gates [components] of each place, for a share of the numbers that were factored."""
    from onnxprune.learn.gates import within_budget

    components = factored_model.components
    costs = [float(one.gated.cost) for one in components]
    least = [one.least for one in components]

    def keep(values: Sequence[Array]) -> list[Array]:
        return within_budget(values, costs, share * factored_model.whole, least)

    return keep
