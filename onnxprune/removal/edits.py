"""Edits that cut units: made, and carried out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.biases import add_bias
from onnxprune.cut import POSITIONS, remove_units
from onnxprune.dimensions import Dimension
from onnxprune.errors import Declined
from onnxprune.graph import constants, elements, stored_bytes
from onnxprune.interface import INTERFACE, AxisCut, Interface, interface_of
from onnxprune.model import Model
from onnxprune.plan import Change, Edit
from onnxprune.removal.refitting import write_refits
from onnxprune.sites import GRAPH, Site, elements_of, entries, find_sites, with_registered
from onnxprune.structure import Structure, pack_shapes, read_structure, unpack_shapes

Array = np.ndarray[Any, Any]
Weights = Mapping[str, gs.Constant]


def dimension_of(site: Site, structure: Structure) -> Dimension:
    """The dimension behind a site of units."""
    if site.dimension is None:
        raise Declined(f"{site.id}: holds no units")
    return structure.dimensions.all[site.dimension]


def weights_of(graph: gs.Graph) -> Weights:
    """Stored tensors by name."""
    return {tensor.name: tensor for tensor in constants(graph)}


def weight_parts(held: Weights, dimension: Dimension) -> Iterator[tuple[Array, int, Array]]:
    """(values, axis, elements [units, k]) of every weight that produces or consumes the units."""
    named = {producer.weight for producer in dimension.producers} | {end.weight for end in dimension.consumers}
    for member in dimension.members:
        if member.tensor in named and member.tensor in held:
            yield held[member.tensor].values, member.axis, member.elements


def shapes_edit(name: str, structure: Structure) -> Edit:
    """Records the shapes that removals of the same pass depend on, so that they replay without a run."""
    return Edit(
        id=f"{name}.shapes",
        pass_name=name,
        site=GRAPH,
        kind="observe-shapes",
        args={"shapes": pack_shapes(structure.shapes), "interface": structure.interface},
    )


def removal_edit(name: str, site: Site, units: Sequence[int], first: Edit) -> Edit:
    """Cuts units of one site; `first` records the shapes."""
    return Edit(
        id=f"{name}.{site.id}",
        pass_name=name,
        site=site.id,
        kind="remove-units",
        args={
            "units": list(units),
            "kind": site.kind,
            "anchor": site.anchor,
            "original_units": site.original_units,
        },
        depends_on=(first.id,),
    )


def apply_removals(model: Model, edits: Sequence[Edit]) -> tuple[Model, tuple[Change, ...]]:
    """Carry out `observe-shapes` and `remove-units` edits on a copy.

    Raises:
        Declined: the units are not those of this model, or the cut cannot be proved.
    """
    observed = [edit for edit in edits if edit.kind == "observe-shapes"]
    cuts = [edit for edit in edits if edit.kind == "remove-units"]
    if not observed or not cuts:
        return model, ()
    args = observed[-1].args
    copy = model.copy()
    write_refits(copy, cuts)
    shapes = dict(unpack_shapes(args["shapes"]))
    bare = _totals(copy.graph)
    for edit in cuts:
        for at, names in enumerate(edit.args.get("folds", ())):
            readers = [str(name) for name in names]
            raw = add_bias(copy.graph, readers, edit.tensors[f"bias.{at}"], overridable=copy.overridable)
            shapes.update({new: shapes[old] for new, old in raw.items()})
    runs = len(next(iter(shapes.values()), ()))
    # Biases that were made have been seen in no run.
    shapes |= {t.name: (tuple(t.shape),) * runs for t in constants(copy.graph) if t.name not in shapes}
    structure = read_structure(copy, shapes, interface=bool(args.get("interface", False)))
    found = find_sites(copy, structure)
    sites = {site.id: site for site in found if site.dimension is not None}
    removals: dict[int, tuple[int, ...]] = {}
    for edit in cuts:
        site = sites.get(edit.site)
        if site is None or site.dimension is None:
            raise Declined(f"{edit.site}: the model has no such site")
        units = tuple(int(unit) for unit in edit.args["units"])
        if any(not 0 <= unit < site.units for unit in units) or len(set(units)) >= site.units:
            raise Declined(f"{edit.site}: has {site.units} units, of which at least one must stay")
        removals[site.dimension] = units
    biased = _totals(copy.graph)
    changes = tuple(_changes(copy.graph, structure, cuts, sites, removals))
    report = remove_units(copy.graph, structure.dimensions, removals, shapes)
    expected = (
        biased[0] - sum(change.params_before - change.params_after for change in changes),
        biased[1] - sum(change.bytes_before - change.bytes_after for change in changes),
    )
    changes += _added("biases for what units gave", bare, biased)
    changes += _added("private copies of shared tables", expected, _totals(copy.graph))
    changes += tuple(
        Change(
            site=GRAPH, what=f"the interface changed: axis {c.axis} of {c.tensor!r} from {c.before} to {c.after}"
        )
        for c in report.interface
    )  # fmt: skip
    read = _totals(copy.graph)
    copy.graph.cleanup(remove_unused_graph_inputs=False)
    changes += _gone("weights that nothing reads any more", read, _totals(copy.graph))
    # All of them: a head that is left alone makes its width a site of its own, which must not take another's number;
    # weights, too, where some have gone with their units.
    left = weights_of(copy.graph)
    taken = any(site.weight and site.weight not in left for site in found)
    known = entries(found if taken else sites.values()) | {
        edit.site: {"anchor": edit.args["anchor"], "units": edit.args["original_units"]} for edit in cuts
    }
    cut = with_registered(copy, known)
    if report.interface:
        cuts_of_axes = tuple(AxisCut(c.tensor, c.axis, c.before, c.kept) for c in report.interface)
        whole = Interface(interface_of(model.metadata).cuts + cuts_of_axes)
        cut = cut.with_metadata(**{INTERFACE: whole.text()})
    return cut, changes


def _totals(graph: gs.Graph) -> tuple[int, int]:
    """Numbers and bytes of everything that is no position."""
    held = [tensor for tensor in constants(graph) if np.dtype(tensor.dtype) not in POSITIONS]
    return sum(map(elements, held)), sum(map(stored_bytes, held))


def _added(what: str, before: tuple[int, int], after: tuple[int, int]) -> tuple[Change, ...]:
    if before == after:
        return ()
    return (Change(site=GRAPH, what=what, params_after=after[0] - before[0], bytes_after=after[1] - before[1]),)


def _gone(what: str, before: tuple[int, int], after: tuple[int, int]) -> tuple[Change, ...]:
    if before == after:
        return ()
    return (Change(site=GRAPH, what=what, params_before=before[0] - after[0], bytes_before=before[1] - after[1]),)


def _ranges(units: Sequence[int]) -> str:
    """Numbers in words: `0-9, 50`."""
    order = sorted(units)
    starts = [unit for unit in order if unit - 1 not in units]
    ends = [unit for unit in order if unit + 1 not in units]
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def _remark(edit: Edit) -> str:
    if "not_refitted" in edit.args:
        means = ", means kept" if edit.args.get("folds") else ""
        return f"{means}, not refitted ({edit.args['not_refitted']})"
    return " and the rest refitted" if edit.args.get("refits") else ""


def _changes(
    graph: gs.Graph,
    structure: Structure,
    cuts: Sequence[Edit],
    sites: Mapping[str, Site],
    removals: Mapping[int, tuple[int, ...]],
) -> Iterator[Change]:
    """What each cut takes out of the weights, in order; a number that two cuts share counts for the first."""
    held = {tensor.name: tensor for tensor in constants(graph)}
    kept: dict[str, list[Array]] = {}
    for edit in cuts:
        site = sites[edit.site]
        dimension = dimension_of(site, structure)
        change = Change(
            site=site.id,
            what=f"{len(removals[dimension.index])} of {site.units} {site.kind} removed{_remark(edit)}"
            f": {_ranges(removals[dimension.index])}",
        )
        for member in dimension.members:
            tensor = held.get(member.tensor)
            if tensor is None or np.dtype(tensor.dtype) in POSITIONS:
                continue
            masks = kept.setdefault(member.tensor, [np.ones(size, bool) for size in tensor.shape])
            before = elements_of(tuple(int(mask.sum()) for mask in masks))
            masks[member.axis][member.elements[list(removals[dimension.index])].ravel()] = False
            after = elements_of(tuple(int(mask.sum()) for mask in masks))
            size = np.dtype(tensor.dtype).itemsize
            change = replace(
                change,
                params_before=change.params_before + before,
                params_after=change.params_after + after,
                bytes_before=change.bytes_before + before * size,
                bytes_after=change.bytes_after + after * size,
            )
        yield change
