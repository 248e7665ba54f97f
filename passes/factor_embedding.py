"""Replace embedding tables by short codes and a projection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from onnxprune.calibration import Needs
from onnxprune.codes import CLUSTER_OPSET, CodeWriter, refuse_head, refuse_table, tensors_fit
from onnxprune.errors import Declined, OptionError
from onnxprune.low_rank import LowRankWriter, carried_out, factors_of
from onnxprune.model import Model
from onnxprune.plan import Change, Edit, Skip
from onnxprune.protocol import Context, Proposal
from onnxprune.ranges import at_least, check_ranges, within
from onnxprune.sites import Site, refuse_unknown
from onnxprune.solvers.tables import allot_by_energy, allot_by_size, table_factors
from onnxprune.tables import Table, clusters_of, copies_of, counts_of, places_of
from onnxprune.weights import Weight, find_weights

Array = np.ndarray[Any, Any]

DEFAULT_ENERGY = 0.9
# Seen or not, a token counts as if it had been seen once more.
_UNSEEN = 1.0
# Tables with fewer rows a column save little: the projection outweighs the codes.
_SHORT = 2


@dataclass(frozen=True, kw_only=True)
class FactorEmbedding:
    """Replace embedding tables [V, d] by codes [V, r] and one projection [r, d]; tied heads read the same two.

    Tokens that the sample inputs show often weigh more, and come in clusters whose codes get shorter the rarer their
    tokens are (the adaptive embedding of FLOP: Wang, Wohlwend and Lei 2020).

    Attributes:
        energy: the least share of the rows' squared norms, weighed by frequency, in (0, 1]; the default, at 0.9.
        ratio: instead, the share of the table's numbers, in (0, 1).
        rank: instead, the rank; with clusters, as many numbers as codes of that rank take.
        clusters: how many, each of four times the tokens of the one before; a single one without sample inputs.
        frequency: weigh tokens by how often the samples show them; alike without sample inputs.
        norms: weigh each row's error by its own norm, so that short rows count as much as long ones.
        sites: act on these sites only; by default on every table with twice as many rows as columns.
    """

    name: ClassVar[str] = "factor-embedding"
    lossless: ClassVar[bool] = False
    energy: Annotated[float | None, within("(0, 1]")] = None
    ratio: Annotated[float | None, within("(0, 1)")] = None
    rank: Annotated[int | None, at_least(1)] = None
    clusters: Annotated[int, at_least(1)] = 3
    frequency: bool = True
    norms: bool = False
    sites: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject several goals, and goals that no codes meet."""
        given = [name for name in ("energy", "ratio", "rank") if getattr(self, name) is not None]
        if len(given) > 1:
            raise OptionError(f"{self.name}: one of energy, ratio and rank is the goal, got {' and '.join(given)}.")
        check_ranges(self, self.name)

    def needs(self, model: Model, sites: Sequence[Site]) -> Needs:
        """How often each row is looked up."""
        tables, _ = self._tables(model, sites) if self.frequency else ([], [])
        return Needs(tokens=frozenset(name for table in tables for name in table.indices))

    def propose(self, model: Model, sites: Sequence[Site], context: Context) -> Proposal:
        """One edit a table."""
        tables, skips = self._tables(model, sites)
        edits = []
        for table in tables:
            try:
                edits.append(self._edit(table, model, context))
            except Declined as reason:
                skips.append(Skip(site=table.site.id, why=str(reason)))
        return Proposal(tuple(edits), tuple(skips))

    def _tables(self, model: Model, sites: Sequence[Site]) -> tuple[list[Table], list[Skip]]:
        weights = {weight.constant.name: weight for weight in find_weights(model.graph, model.overridable)}
        own = [
            site
            for site in sites
            if site.weight in weights and any(use.role == "embedding" for use in weights[site.weight].uses)
        ]
        refuse_unknown(self.name, self.sites, own)
        tables, skips, done = [], [], factors_of(model)
        for site in own:
            try:
                tables.append(self._table(site, weights, done))
            except Declined as reason:
                skips.append(Skip(site=site.id, why=str(reason)))
        return tables, skips

    def _table(self, site: Site, weights: Mapping[str, Weight], done: frozenset[str]) -> Table:
        if self.sites and site.id not in self.sites:
            raise Declined("not among option sites")
        weight = weights[site.weight]
        if site.weight in done:
            raise Declined("low-rank codes already")
        refuse_table(weight)
        rows, width = weight.constant.shape
        if rows < _SHORT * width and not self.sites:
            raise Declined(
                f"{rows} rows of {width}: codes would save little; name it in sites= to have them all the same"
            )
        heads = [use for use in weight.uses if use.role == "linear"]
        copies = list(copies_of(weight, weights.values()))
        return Table(site, weight, (*heads, *(use for copy in copies for use in copy.uses)), tuple(copies))

    def _edit(self, table: Table, model: Model, context: Context) -> Edit:
        values = np.asarray(table.weight.constant.values)
        rows, width = values.shape
        counts = counts_of(table, context.statistics) if self.frequency else None
        weights = np.ones(rows) if counts is None else counts + _UNSEEN
        if self.norms:
            squares = np.square(values, dtype=np.float64).sum(axis=1)
            weights = weights / np.maximum(squares, 1e-6 * squares.mean())
        parts = self._clusters(counts, rows, model.graph.opset)
        factors = [table_factors(values[part], weights[part]) for part in parts]
        ranks = self._ranks(
            [one.values[: len(part)] for one, part in zip(factors, parts, strict=True)],
            [len(part) + width for part in parts],
            rows,
            width,
        )
        taken = sum(rank * (len(part) + width) for rank, part in zip(ranks, parts, strict=True))
        if taken >= rows * width:
            raise Declined(f"codes of rank {_words(ranks)} take {taken} numbers, the table {rows * width}")
        tensors: dict[str, Array] = {}
        projections = []
        for at, (part, one, rank) in enumerate(zip(parts, factors, ranks, strict=True)):
            codes, projection = one.at(values[part], rank)
            tensors[f"codes.{at}"] = codes if len(parts) == 1 else np.pad(codes, ((0, 1), (0, 0)))
            projections.append(projection)
        tensors["projection"] = np.concatenate(projections)
        if len(parts) > 1:
            tensors["places"] = places_of(parts)
        return Edit(
            id=f"{self.name}.{table.site.id}",
            pass_name=self.name,
            site=table.site.id,
            kind="encode",
            args={
                "table": table.weight.constant.name,
                "copies": [copy.constant.name for copy in table.copies],
                "tokens": [len(part) for part in parts],
                "weighed_by": None if counts is None else int(counts.sum()),
            },
            tensors={name: values if values.dtype.kind == "u" else values.astype(table.weight.constant.dtype)
                     for name, values in tensors.items()},
        )  # fmt: skip

    def _clusters(self, counts: Array | None, rows: int, opset: int) -> list[Array]:
        """Tokens of each cluster, the most frequent first; within one in the table's order."""
        count = 1 if counts is None else self.clusters
        if count == 1 or counts is None:
            return [np.arange(rows)]
        if opset < CLUSTER_OPSET:
            raise Declined(f"clusters need opset {CLUSTER_OPSET}, the model has {opset}; clusters=1 does without")
        return clusters_of(counts, count)

    def _ranks(self, values: Sequence[Array], costs: Sequence[int], rows: int, width: int) -> tuple[int, ...]:
        if self.ratio is not None:
            return allot_by_size(values, costs, int(self.ratio * rows * width))
        if self.rank is not None:
            return allot_by_size(values, costs, self.rank * (rows + width))
        return allot_by_energy(values, costs, self.energy or DEFAULT_ENERGY)

    def apply(self, model: Model, edits: Sequence[Edit]) -> tuple[Model, tuple[Change, ...]]:
        """The model with codes in place of its tables, remembering which constants are factors."""
        return carried_out(model, edits, _write)


def _words(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _write(writer: LowRankWriter, edit: Edit, weights: Mapping[str, Weight]) -> tuple[Change, list[str]]:
    held = _fitting(edit, weights)
    table = held[0]
    for weight in held:
        for use in weight.uses:
            writer.touch(use, weight.constant)
    coded = CodeWriter(writer, table.constant.name, edit.tensors, np.dtype(table.constant.dtype))
    for use in (use for weight in held for use in weight.uses):
        if use.role == "embedding":
            coded.gathered(use)
        else:
            coded.multiplied(use)
    before, bytes_before, after, bytes_after = writer.costs()
    change = Change(
        site=edit.site,
        what=_what(edit, [constant.shape[1] for constant in coded.codes.tables], held),
        params_before=before,
        params_after=after,
        bytes_before=bytes_before,
        bytes_after=bytes_after,
    )
    return change, list(coded.codes.names)


def _what(edit: Edit, ranks: Sequence[int], held: Sequence[Weight]) -> str:
    table, *copies = held
    what = f"{'x'.join(map(str, table.constant.shape))} as codes of rank {_words(ranks)}"
    if len(ranks) > 1:
        what += f" for {_words(edit.args['tokens'])} tokens"
    told = edit.args["weighed_by"]
    what += ", all rows alike" if told is None else f", weighed by {told} tokens seen"
    heads = sum(use.role != "embedding" for weight in held for use in weight.uses)
    if heads:
        what += f"; {heads} tied product{'s' * (heads > 1)}"
    return what + (f", {len(copies)} of a stored copy" if copies else "")


def _fitting(edit: Edit, weights: Mapping[str, Weight]) -> list[Weight]:
    """The edit's table and its copies.

    Raises:
        Declined: one is missing, or the codes do not fit.
    """
    held = []
    for name in (edit.args["table"], *edit.args["copies"]):
        if name not in weights:
            raise Declined(f"{edit.site}: the model has no weight {name!r}")
        held.append(weights[name])
    table, *copies = held
    refuse_table(table)
    rows, width = table.constant.shape
    if not tensors_fit(edit.tensors, rows, width):
        raise Declined(f"{edit.site}: the codes do not fit {table.constant.name!r} {[rows, width]}")
    for copy in copies:
        for use in copy.uses:
            refuse_head(use, transposed=tuple(copy.constant.shape) == (rows, width))
    return held
