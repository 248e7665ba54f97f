"""A front as a picture, by matplotlib, which is imported when a picture is wanted."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from onnxprune.errors import MissingDependencyError, OptionError, OutputError
from onnxprune.files import atomic
from onnxprune.sweeping import Sweep

_FORMATS = (".png", ".svg")


def check_plot(path: Path) -> None:
    """Refuse a picture that cannot be drawn, before anything long begins.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        OptionError: no format that is drawn.
        OutputError: no such folder.
    """
    if path.suffix.lower() not in _FORMATS:
        raise OptionError(f"--plot must name a file ending in {' or '.join(_FORMATS)}, got {str(path)!r}.")
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent}: no such folder. Make it or choose another place with --plot.")
    if find_spec("matplotlib") is None:
        raise MissingDependencyError("--plot needs matplotlib. Install it: pip install 'onnxprune[report]'.")


def draw(result: Sweep, path: Path) -> None:
    """Speed against fidelity, the area of a point its share of the original's bytes.

    Raises:
        MissingDependencyError, OptionError, OutputError: as `check_plot`.
    """
    check_plot(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Text stays text, and the same sweep is the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "onnxprune"}):
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()
        _points(axes, result)
        kind = path.suffix.lower().removeprefix(".")
        with atomic(path) as file:
            figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)


def _points(axes: Any, result: Sweep) -> None:
    area = 600.0
    front = result.front
    axes.plot([1, *(p.speedup for p in front)], [1, *(p.fidelity for p in front)], color="0.8", zorder=0)
    axes.scatter([1], [1], s=area, color="0.6", label="original")
    for points, color, label in ((front, "tab:blue", "front"), ([p for p, _ in result.covered], "tab:red", "covered")):
        if points:
            sizes = [max(area * p.size_bytes / result.size_bytes, 8) for p in points]
            axes.scatter([p.speedup for p in points], [p.fidelity for p in points], s=sizes, color=color, label=label)
        for point in points:
            axes.annotate(
                f"{point.name}, {point.size_bytes / result.size_bytes:.2f} x the file",
                (point.speedup, point.fidelity),
                xytext=(6, 6),
                textcoords="offset points",
                fontsize=7,
            )
    axes.set_xlabel(f"times as fast as the original, {result.job.target}")
    axes.set_ylabel("fidelity on held-out samples")
    axes.set_title(Path(result.job.model).name)
    axes.legend(markerscale=0.4)
