"""What became of each place of a model, layer by layer: units, ranks, zeros and bits, of what there was before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxprune.inspection import Inspection
from onnxprune.report.page.document import Section, Table
from onnxprune.report.page.pictures import shares
from onnxprune.sites import Site
from onnxprune.storage import Stored

# Kinds of sites whose units can go, in the order in which they are shown.
_CUT = ("heads", "neurons", "channels")
# Sites in the table of a page, and cells of one kind in its picture.
_ROWS = 160
_CELLS = 240


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One site before and after.

    Attributes:
        units: that stand, and how many there were; None for the weight of a linear, which has none of its own.
        rank: of the pair that took the weight's place, and the largest that it could have; None without a pair.
        held: the weights that hold the site's numbers now.
        was: the weight before.
    """

    site: Site
    units: tuple[int, int] | None = None
    rank: tuple[int, int] | None = None
    held: tuple[Stored, ...] = ()
    was: Stored | None = None

    @property
    def nonzero(self) -> float | None:
        """Share of the numbers that are not zero."""
        numbers = sum(one.numbers for one in self.held)
        return sum(one.nonzero for one in self.held) / numbers if numbers else None

    @property
    def bits(self) -> float | None:
        """Stored bits of a number."""
        numbers = sum(one.numbers for one in self.held)
        return 8 * sum(one.stored_bytes for one in self.held) / numbers if numbers else None


def site_map(before: Inspection, after: Inspection) -> Section | None:
    """Each site of a model as it was, and what is left of it; None where there is none.

    Args:
        before: the original; the same as `after` where nothing was done.
        after: the result.
    """
    rows = [_row(site, before, after) for site in before.sites]
    kinds: dict[str, Sequence[tuple[float, float]]] = {
        **{kind: [row.units for row in rows if row.site.kind == kind and row.units] for kind in (*_CUT, "block")},
        "rank": [row.rank for row in rows if row.rank is not None],
        "bits": [(round(row.bits, 1), _was_bits(row)) for row in rows if row.bits is not None and row.bits < 31.9],
        "% not zero": [
            (round(100 * row.nonzero), 100) for row in rows if row.nonzero is not None and row.nonzero < 0.95
        ],
    }
    if all(kept == whole for kept, whole in kinds["block"]):
        del kinds["block"]
    shown = {kind: cells[:_CELLS] for kind, cells in kinds.items() if cells}
    table = [_cells(row) for row in rows if row.site.kind != "block" or row.units == (0, 1)]
    if not table:
        return None
    text = (
        "Each cell is a site, from the first layer to the last; its filled part is what is left of it." if shown else ""
    )
    if len(table) > _ROWS:
        text += f" The table shows {_ROWS} of {len(table)} sites; inspect shows all."
    head = ("site", "units", "rank", "zeros", "bits a number", "stored as", "weight", "remark")
    held = [at for at in range(len(head)) if any(row[at] for row in table)]
    parts = Table(head=[head[at] for at in held], rows=[[row[at] for at in held] for row in table[:_ROWS]])
    return Section(title="Site by site", text=text.strip(), parts=[*([shares(shown)] if shown else []), parts])


def _row(site: Site, before: Inspection, after: Inspection) -> _Row:
    if site.kind in {"linear", "embedding"}:
        held = _heirs(site.weight, after.weights)
        was = next((one for one in before.weights if one.name == site.weight), None)
        return _Row(site=site, rank=_rank(held, was), held=held, was=was)
    found = next((one for one in after.sites if one.id == site.id), None)
    whole = max(site.original_units, site.units)
    return _Row(site=site, units=(found.units if found is not None else 0, whole))


def _heirs(weight: str, stored: Sequence[Stored]) -> tuple[Stored, ...]:
    """The weights that hold a weight's numbers now: what a pass writes extends the name that it replaces."""
    same = [one for one in stored if one.name == weight]
    if same:
        return tuple(same)
    heirs = [one for one in stored if one.name.startswith(f"{weight}.")]
    # Scales and zero points say how numbers are read; they are none of the weight's own.
    return tuple(
        one for one in heirs if len(one.shape) > 1 and not one.name.endswith((".scale", ".zero", ".zero_point"))
    )


def _rank(held: Sequence[Stored], was: Stored | None) -> tuple[int, int] | None:
    left = next((one for one in held if ".left" in one.name), None)
    if left is None or was is None or len(was.shape) < 2 or not any(".right" in one.name for one in held):
        return None
    # A pair of a 1x1 convolution keeps its rank in front, one of a product behind.
    return min(left.shape[:2]), min(was.shape[:2])


def _was_bits(row: _Row) -> float:
    return max(row.was.bits if row.was is not None else 32.0, row.bits or 0.0)


def _cells(row: _Row) -> list[str]:
    site = row.site
    units = "" if row.units is None else f"{row.units[0]} of {row.units[1]}"
    gone = row.units is not None and row.units[0] == 0
    merged = row.units is None and not row.held
    zeros = row.nonzero
    return [
        site.id,
        units,
        "" if row.rank is None else f"{row.rank[0]} of {row.rank[1]}",
        "" if zeros is None else f"{1 - zeros:.0%}",
        "" if row.bits is None else f"{row.bits:.3g}",
        " + ".join(dict.fromkeys(f"{one.dtype}, {one.form}" for one in row.held)),
        site.weight or (site.operator if site.kind == "block" else ""),
        "removed" if gone else "gone with its block" if merged else f"stays: {site.pinned}" if site.pinned else "",
    ]
