"""Parts of the network that carry nothing."""

from __future__ import annotations

from collections.abc import Iterator

from onnxprune.checking.case import Case
from onnxprune.checking.finding import Spot
from onnxprune.checking.rule import rule
from onnxprune.dead import DeadUnits
from onnxprune.graph import storage
from onnxprune.sites import find_sites

# A dead channel among thousands is nothing to stop a release for.
_WORTH = 1e-3


@rule(
    "dead-units",
    "warning",
    needs="run",
    do="Cut them, without changing an output: onnxprune optimize MODEL --pass remove-dead.",
)
def dead_units(case: Case) -> Iterator[Spot]:
    """Heads, neurons or channels carry nothing; a note where all of a model's are less than a thousandth of it."""
    finder = DeadUnits(case.model, case.structure, case.observe)
    found = []
    for site in find_sites(case.model, case.structure):
        if site.dimension is not None and not site.pinned:
            count = finder.of(case.structure.dimensions.all[site.dimension]).count
            found += [(site, count)] if count else []
    share = sum(site.unit_size * count for site, count in found) / max(1, storage(case.model.graph)[0])
    for site, count in found:
        what = f"{count} of {site.units} units are dead, {site.unit_size * count} numbers"
        yield Spot(f"{site.id} (read by {site.uses[0]!r})", what, None if share >= _WORTH else "note")


RULES = (dead_units,)
