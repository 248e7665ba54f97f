"""One cell of the matrix: which units go, and how far the cut is from the masked original."""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.dimensions import Dimension, Dimensions
from onnxprune.errors import ModelError
from tests.equality import BOUND, compare, traced
from tests.matrix.exporting import CHECKED, PROBES, ExportFailedError, exported, feeds


@dataclass(frozen=True)
class Cell:
    """What became of one export.

    Attributes:
        heads: dimensions of heads that were cut.
        neurons: dimensions of neurons or channels that were cut.
        error: against the masked original, relative.
        moved: what masking does to the output, relative.
        failed: the exporter's own failure; empty where it worked.
        note: how the original itself is limited.
    """

    heads: int = 0
    neurons: int = 0
    error: float = 0.0
    moved: float = 0.0
    failed: str = ""
    note: str = ""

    @property
    def exact(self) -> bool:
        """Whether it was cut, and rightly."""
        return not self.failed and self.heads + self.neurons > 0 and self.error <= BOUND

    def __str__(self) -> str:
        """The cell of the table."""
        if self.failed:
            return "export fails"
        verdict = "exact" if self.exact else "**wrong**"
        return f"{verdict} ({self.heads} h, {self.neurons} n){' at batch 1' if self.note else ''}"


def removals(dimensions: Dimensions) -> tuple[dict[int, list[int]], int, int]:
    """3 of 8 heads in the first attention, 5 of 8 in the second and so on in turn, and 37 % of all neurons."""
    chosen: dict[int, list[int]] = {}
    heads = neurons = 0
    for dimension in dimensions.prunable:
        units = dimension.units
        if dimension.kind == "heads":
            count = max(1, (3 if heads % 2 == 0 else 5) * units // 8)
            heads += 1
        elif dimension.kind in {"neurons", "channels"}:
            count = max(1, round(0.37 * units))
            neurons += 1
        else:
            continue
        if count < units:
            chosen[dimension.index] = _spread(dimension, count)
    return chosen, heads, neurons


def _spread(dimension: Dimension, count: int) -> list[int]:
    """Units that lie neither at one end nor in step."""
    units = dimension.units
    order = sorted(range(units), key=lambda unit: ((unit * 7919 + 13 * dimension.index) % 104729 % (units + 3), unit))
    return sorted(order[:count])


def run(name: str, exporter: str, attention: str) -> Cell:
    """Export, trace, cut and compare."""
    try:
        path = exported(name, exporter, attention)
    except ExportFailedError as failure:
        return Cell(failed=failure.why)
    try:
        held = traced(path, [feeds(name, *probe) for probe in PROBES])
        checks, note = list(CHECKED), ""
    except ModelError as refusal:
        # Some exports of torch run at batch 1 alone, before anything is cut.
        held = traced(path, [feeds(name, 1, length) for _, length in PROBES])
        checks, note = [(1, length) for _, length in CHECKED], f"the export runs at batch 1 only: {refusal}"
    chosen, heads, neurons = removals(held.dimensions)
    if not chosen:
        return Cell(note=note)
    error, moved = compare(held, chosen, [feeds(name, *check) for check in checks])
    return Cell(heads, neurons, error, moved, note=note)
