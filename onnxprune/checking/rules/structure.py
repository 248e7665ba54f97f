"""Parts of the network that carry nothing."""

from __future__ import annotations

from collections.abc import Iterator

from onnxprune.checking.case import Case
from onnxprune.checking.finding import Spot
from onnxprune.checking.rule import rule
from onnxprune.dead import DeadUnits
from onnxprune.sites import find_sites


@rule(
    "dead-units",
    "warning",
    needs="run",
    do="Cut them, without changing an output: onnxprune optimize MODEL --pass remove-dead.",
)
def dead_units(case: Case) -> Iterator[Spot]:
    """Heads, neurons or channels carry nothing: their weights are zero, or nobody reads them."""
    finder = DeadUnits(case.model, case.structure, case.observe)
    for site in find_sites(case.model, case.structure):
        if site.dimension is None or site.pinned:
            continue
        dead = finder.of(case.structure.dimensions.all[site.dimension])
        if dead.count:
            what = f"{dead.count} of {site.units} units are dead, {site.unit_size * dead.count} numbers"
            yield Spot(f"{site.id} (read by {site.uses[0]!r})", what)


RULES = (dead_units,)
