"""Pictures of a report as SVG in the page's own colours; text stays text."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from onnxprune.report.page.document import Picture

# Stand-ins for colours that the page decides, light or dark.
_INK, _ACCENT, _SECOND, _LINE = "#010203", "#010204", "#010205", "#010206"
_COLOURS = {_INK: "currentColor", _ACCENT: "var(--accent)", _SECOND: "var(--second)", _LINE: "var(--line)"}
# Of a name beside a point; of the part of a front that holds points; and where a name may stand, the best first.
_NAME_PT = 7.5
_INNER_PT = (430.0, 190.0)
_SIDES = ((5.0, 5.0, "left"), (5.0, -12.0, "left"), (-5.0, 5.0, "right"), (-5.0, -12.0, "right"), (5.0, 15.0, "left"))
# Cells of a grid in one row; more go on below.
_ROW = 12


def shares(rows: Mapping[str, Sequence[tuple[float, float]]]) -> Picture:
    """What is left of each site: a cell a site, filled as far as its units stand.

    Args:
        rows: by kind of site, (what is left, what there was) in the order of the layers.
    """
    lines = [
        (kind if at == 0 else "", list(cells[at : at + _ROW]))
        for kind, cells in rows.items()
        for at in range(0, len(cells), _ROW)
    ]
    columns = max(len(cells) for _, cells in lines)
    figure, axes = _axes(0.9 + 0.62 * columns + 1.0, 0.35 + 0.5 * len(lines))
    for y, (kind, cells) in enumerate(lines):
        axes.text(-0.2, y, kind, ha="right", va="center", color=_INK, fontsize=9)
        for x, (kept, whole) in enumerate(cells):
            share = kept / whole if whole else 0.0
            axes.add_patch(_box(x, y, 1.0, _LINE, 0.55))
            # Light enough for the number on it to be read, on paper and in the dark.
            axes.add_patch(_box(x, y, share, _ACCENT, 0.45))
            axes.text(x + 0.47, y, f"{kept:g}", ha="center", va="center", color=_INK, fontsize=7.5)
    axes.set_xlim(-2.2, columns)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.axis("off")
    words = "; ".join(
        f"{kind}: {', '.join(f'{kept:g} of {whole:g}' for kept, whole in cells)}" for kind, cells in rows.items()
    )
    return Picture(_svg(figure), words)


def pairs(values: Mapping[str, tuple[float, float]], unit: str) -> Picture:
    """Two bars a name, before and after; the longest first.

    Args:
        values: (before, after) by name.
        unit: of both, e.g. `ms`.
    """
    names = sorted(values, key=lambda name: -max(values[name]))
    figure, axes = _axes(7.2, 0.8 + 0.42 * len(names))
    for y, name in enumerate(names):
        before, after = values[name]
        axes.barh(y - 0.19, before, height=0.34, color=_SECOND)
        axes.barh(y + 0.19, after, height=0.34, color=_ACCENT)
    axes.set_yticks(range(len(names)), names, fontsize=8.5)
    axes.invert_yaxis()
    axes.set_xlabel(unit, fontsize=9)
    for place, text, colour in ((0.0, "before", _SECOND), (0.12, "after", _ACCENT)):
        axes.text(place, 1.02, text, color=colour, transform=axes.transAxes, fontsize=9, fontweight="bold")
    words = "; ".join(f"{name}: {values[name][0]:.3g} {unit} before, {values[name][1]:.3g} after" for name in names)
    return Picture(_svg(figure), words)


def course(values: Sequence[tuple[str, float]], label: str) -> Picture:
    """A line over the layers: where a figure grows.

    Args:
        values: (tensor, figure) in the order of the graph.
        label: of the figure.
    """
    figure, axes = _axes(7.2, 2.4)
    axes.plot(
        range(len(values)), [value for _, value in values], color=_ACCENT, marker="o", markersize=3, linewidth=1.4
    )
    axes.set_xticks([0, len(values) - 1], ["first block", "last block"] if len(values) > 1 else ["block", ""])
    axes.set_ylabel(label, fontsize=9)
    axes.set_ylim(bottom=0)
    return Picture(_svg(figure), "; ".join(f"{name}: {value:.3g}" for name, value in values))


def front(points: Sequence[tuple[float, float, str]], across: str, up: str) -> Picture:
    """Points of a trade-off, named.

    Args:
        points: (across, up, name).
        across: what lies along the horizontal axis, with its unit.
        up: along the vertical one.
    """
    figure, axes = _axes(7.2, 3.6)
    ordered = sorted(points)
    axes.plot([x for x, _, _ in ordered], [y for _, y, _ in ordered], color=_LINE, linewidth=1.2, zorder=1)
    axes.scatter([x for x, _, _ in ordered], [y for _, y, _ in ordered], color=_ACCENT, s=26, zorder=2)
    for (x, y, name), (right, up_by, side) in zip(ordered, _free_places(ordered), strict=True):
        axes.annotate(
            name, (x, y), xytext=(right, up_by), textcoords="offset points", ha=side, fontsize=_NAME_PT, color=_INK
        )
    axes.set_xlabel(across, fontsize=9)
    axes.set_ylabel(up, fontsize=9)
    return Picture(_svg(figure), "; ".join(f"{name}: {x:.3g} {across}, {y:.4g} {up}" for x, y, name in ordered))


def _free_places(points: Sequence[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Where each point's name goes, (points to the right, points up, side of the text): over no other if it can be."""
    xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]
    wide, high = max(xs) - min(xs) or 1.0, max(ys) - min(ys) or 1.0
    taken = [((x - min(xs)) / wide * _INNER_PT[0], (y - min(ys)) / high * _INNER_PT[1], 0.0, 0.0) for x, y, _ in points]
    # Points are in the way, too.
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y, _, _ in taken]
    found = []
    for at, (_, _, name) in enumerate(points):
        x, y = taken[at][0] + 4, taken[at][1] + 4
        best = min(_SIDES, key=lambda side: _in_the_way(_text_box(x, y, name, side), taken))
        taken.append(_text_box(x, y, name, best))
        found.append(best)
    return found


def _text_box(x: float, y: float, name: str, place: tuple[float, float, str]) -> tuple[float, float, float, float]:
    """Left, bottom, right and top of a name, about."""
    width = 0.56 * _NAME_PT * len(name)
    left = x + place[0] - (width if place[2] == "right" else 0.0)
    return left, y + place[1], left + width, y + place[1] + 1.1 * _NAME_PT


def _in_the_way(box: tuple[float, float, float, float], taken: Sequence[tuple[float, float, float, float]]) -> float:
    """What a box covers of others, and how far it leaves the picture."""
    covered = sum(
        max(0.0, min(box[2], one[2]) - max(box[0], one[0])) * max(0.0, min(box[3], one[3]) - max(box[1], one[1]))
        for one in taken
    )
    return covered + 10 * max(0.0, -box[0], box[2] - _INNER_PT[0])


def _axes(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_LINE)
    axes.tick_params(colors=_INK, labelsize=8.5, color=_LINE)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    return figure, axes


def _box(x: int, y: int, share: float, colour: str, opacity: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y - 0.4), 0.94 * share, 0.8, facecolor=colour, alpha=opacity, linewidth=0)


def _svg(figure: Any) -> str:
    import matplotlib as mpl

    held = io.StringIO()
    # A salt of its own makes the ids, and so the bytes, the same in every run.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "onnxprune", "font.family": "sans-serif"}):
        figure.savefig(held, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = held.getvalue()
    text = text[text.index("<svg") :]
    for colour, own in _COLOURS.items():
        text = text.replace(colour, own)
    # Addresses of schemas are no requests, but a page that names none is plainly alone.
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px system-ui, sans-serif", text)
