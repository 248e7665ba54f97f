"""A torch module before it is exported."""

from __future__ import annotations

from collections.abc import Iterator

from onnxprune.checking.case import Case
from onnxprune.checking.finding import Spot
from onnxprune.checking.rule import rule

_MASKS = ("mask of", "pruning mask")


@rule(
    "masks-left",
    "note",
    needs="module",
    do="Export onnxprune.export_ready(module): the file then holds the weights that are used, under their own names.",
)
def masks_left(case: Case) -> Iterator[Spot]:
    """Weights carry pruning masks that are not part of them yet."""
    for name, how in case.folded.items():
        if how.startswith(_MASKS):
            yield Spot(f"weight {name!r}", how)


@rule(
    "gates-left",
    "note",
    needs="module",
    do="Export onnxprune.export_ready(module, inputs), which makes them part of a weight where that is proved.",
)
def gates_left(case: Case) -> Iterator[Spot]:
    """Gates and parametrizations are computed at each run, or cannot be made part of a weight."""
    for name, how in case.folded.items():
        if not how.startswith(_MASKS):
            yield Spot(f"tensor {name!r}", how)
    for name, why in case.unfolded.items():
        yield Spot(f"tensor {name!r}", f"stays: {why}")


@rule("exporter-failed", "warning", needs="export", do="Mend what it names, or export with the other one.")
def exporter_failed(case: Case) -> Iterator[Spot]:
    """An exporter of torch gives up, or its file cannot be optimized; an error where both do."""
    export = case.export
    if export is not None and export.failure:
        alone = all(one.failure for one in case.exports)
        yield Spot(f"exporter {export.exporter}", export.failure, "error" if alone else None)


@rule(
    "pruned-units-stay",
    "warning",
    needs="export",
    do="Prune whole heads, neurons or channels that nothing pins: these zeros stay in the file and cost time.",
)
def pruned_units_stay(case: Case) -> Iterator[Spot]:
    """Units that training has pruned will not disappear from the export."""
    for one in case.export.pruned if case.export is not None else ():
        if one.disappear is not None and one.disappear < one.zero:
            what = f"{one.zero} of {one.units} {one.side} are zero, {one.disappear} of them will disappear: {one.why}"
            yield Spot(f"weight {one.parameter!r}", what)


RULES = (masks_left, gates_left, exporter_failed, pruned_units_stay)
