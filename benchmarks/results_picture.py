"""Score against latency, one picture a model, with the front that nobody is left of and above."""

from pathlib import Path
from typing import Any

from benchmarks import results_checks

Row = dict[str, Any]

_COLOURS = {"ours": "tab:blue", "others": "tab:red", "original": "0.4"}


def draw_all(result: Row, folder: Path) -> None:
    """Write an .svg for each model with a speed and a score, and name it in the model's part of the results."""
    for model in result["models"]:
        points = [point for row in model["rows"] if (point := _point(row)) is not None]
        if len(points) > 1:
            model["picture"] = f"results-{model['model']}.svg"
            draw(model["model"], points, folder / model["picture"])


def draw(name: str, points: list[Row], path: Path) -> None:
    """Draw the points {"x": ms, "y": share of fp32's score, "kind", "label"} and their front."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Text stays text, and the same results are the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "onnxprune"}):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.add_subplot()
        front = front_of(points)
        axes.plot([one["x"] for one in front], [one["y"] for one in front], color="0.8", zorder=0)
        for kind, colour in _COLOURS.items():
            chosen = [one for one in points if one["kind"] == kind]
            axes.scatter([one["x"] for one in chosen], [one["y"] for one in chosen], s=18, color=colour, label=kind)
        for one in points:
            axes.annotate(one["label"], (one["x"], one["y"]), xytext=(4, 3), textcoords="offset points", fontsize=6)
        axes.set_xlabel("ms at batch 1, one thread")
        axes.set_ylabel(points[0]["measure"])
        axes.set_title(name)
        axes.legend()
        figure.savefig(path, format="svg", metadata={"Date": None})


def front_of(points: list[Row]) -> list[Row]:
    """Return the points of which no other is at least as fast and at least as good, and better in one."""
    best: list[Row] = []
    for one in sorted(points, key=lambda point: (point["x"], -point["y"])):
        if not best or one["y"] > best[-1]["y"]:
            best.append(one)
    return best


def _point(row: Row) -> Row | None:
    if not results_checks.runs(row):
        return None
    if row["scores"]:
        first = row["scores"][0]
        y, measure = results_checks.share(first), f"share of fp32's score: {first['task']}"
    elif row.get("explained") is not None:
        y, measure = row["explained"], "share of the outputs' variance that survives"
    else:
        return None
    kind = "original" if row["contender"] == "fp32" else "ours" if row["own"] else "others"
    return {
        "x": row["batches"]["1"]["median_ms"], "y": max(y, 0.0), "kind": kind, "label": row["contender"],
        "measure": measure,
    }  # fmt: skip
