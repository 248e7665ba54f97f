"""Write the results of `benchmarks.mobile` as markdown. Pure: JSON values in, text out."""

from collections.abc import Sequence
from typing import Any

from benchmarks import tables

Row = dict[str, Any]

_KINDS = {"wall": "ms", "instructions": "M instructions", "none": "forecast"}
# Float sums in another order, through a deep network; and rounding steps of 8 bits, which a kernel may take either way.
FLOAT_TOLERANCE = 1e-4
_TOLD = 3
_AGREEING = ("xnnpack", "web", "arm64")


def markdown(result: Row, models: Sequence[str], targets: Sequence[str]) -> str:
    """Return the page."""
    machine = result.get("machine", {})
    versions = ", ".join(f"{name} {number}" for name, number in machine.get("versions", {}).items())
    parts = [
        "# Mobile-class targets, measured",
        "Written by `python -m benchmarks.mobile`; not edited by hand.",
        (
            f"{machine.get('cpu', '')}; Python {machine.get('python', '')}, {versions}. One thread, batch 1, fixed "
            "shapes. `ms`: medians of alternated runs on this machine, and the median of paired ratios with its 95 % "
            "interval. `M instructions`: executed by an emulated Cortex-A76, counted over two runs: a proxy, no time. "
            "`forecast`: nodes that the provider would take by onnxruntime's own list of operators; nothing ran. "
            "Inputs are single samples; sizes that were chosen stand beside the model. Where a ratio is 1.00 within "
            "its interval, no form was faster there or none kept the fidelity of 0.95: the weights are integers in the "
            "file alone, decoded at load, and the runs are the original's. The reasons stand at the end."
        ),
    ]
    if machine.get("load", 0.0) > 1:
        parts.append(
            f"{machine['cores']} cores with a load of {machine['load']:.1f} from other work: milliseconds are those of "
            "a busy machine, and only the ratios of runs side by side say how models compare. Counts of instructions "
            "do not depend on it."
        )
    if result.get("missing"):
        parts.append("Left out: " + "; ".join(f"`{name}` {why}" for name, why in result["missing"].items()) + ".")
    parts += _figures(result, models, targets)
    parts += _forms(result)
    parts += _agreement(result, models)
    parts += _given_up(result)
    return "\n\n".join(parts) + "\n"


def _figures(result: Row, models: Sequence[str], targets: Sequence[str]) -> list[str]:
    rows = []
    for model in models:
        for target in targets:
            found = result.get("figures", {}).get(f"{model} {target}")
            if found is None:
                continue
            made = result.get("made", {}).get(f"{model} {target}", {})
            before, after = found["models"]
            rows.append((
                " ".join([model, found["input"]]) if found.get("input") else model,
                target,
                _KINDS[found["latency"]],
                _cost(before),
                _cost(after),
                _ratio(after),
                f"{_nodes(before)} → {_nodes(after)}",
                f"{made['size_share']:.2f}" if made else "",
                f"{made['fidelity']:.4f}" if made else "",
            ))  # fmt: skip
    head = (
        "model",
        "target",
        "kind",
        "fp32",
        "optimized for it",
        "times as fast",
        "nodes on the provider",
        "file",
        "fidelity",
    )
    return ["## fp32 against the model optimized for each target", tables.table(head, rows)] if rows else []


def _cost(row: Row) -> str:
    if "latency_ms" in row:
        return f"{row['latency_ms']['median']:.3g}"
    if "instructions" in row:
        return f"{row['instructions'] / 1e6:.3g}"
    best = max(row["forecasts"], key=lambda one: one["counts"][one["provider"]])
    parts = "partition" if best["partitions"] == 1 else "partitions"
    return f"{best['verdict']}: {best['partitions']} {parts} ({best['form']})"


def _ratio(row: Row) -> str:
    if "speedup" not in row:
        return ""
    ratio = row["speedup"]
    if "instructions" in row:
        return f"{ratio['ratio']:.2f}"
    return f"{ratio['ratio']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"


def _nodes(row: Row) -> str:
    placed = row.get("placement")
    if not placed:
        return ""
    counts = placed["counts"]
    return f"{counts[placed['provider']]} of {sum(counts.values())}"


def _forms(result: Row) -> list[str]:
    found = result.get("forms")
    if not found:
        return []
    rows = []
    for target, measured in found["targets"].items():
        for form, row in zip(found["forms"], measured["models"], strict=True):
            rows.append((
                target,
                form,
                f"{_cost(row)} {_KINDS[measured['latency']]}",
                _ratio(row),
                _nodes(row),
                str(row["placement"]["partitions"]),
            ))  # fmt: skip
    head = ("target", "form", "a run", "times as fast as fp32", "nodes on the provider", "partitions")
    text = (
        "All convolutions static, with the same integers up to an offset of 128. XNNPACK takes convolutions of signed "
        "activations and weights (S8S8), never of unsigned activations and signed weights (U8S8)."
    )
    return ["## EfficientNet-lite0 in each int8 form", text, tables.table(head, rows)]


def _agreement(result: Row, models: Sequence[str]) -> list[str]:
    found = result.get("agreement", {})
    rows = []
    for key, row in found.items():
        model, target = key.split()
        if model not in models:
            continue
        limit = max(FLOAT_TOLERANCE, 0.0 if row["integers"] == "none" else row["fp32"])
        others = [row[name] for name in _AGREEING]
        cells = [f"{each:.1e}" if isinstance(each, float) else f"declined: {each}" for each in others]
        within = all(each <= limit for each in others if isinstance(each, float))
        causes = (f"{row[cause]:.1e}" for cause in ("fp32", "moved"))
        rows.append((model, target, row["integers"], *cells, *causes, "yes" if within else "**no**"))
    if not rows:
        return []
    head = ("model", "optimized for", "integers", *_AGREEING, "fp32", "floats moved", "within")
    text = (
        "Relative L2 distance of the outputs on one real sample from those of the same file on `cpu:1`, the largest "
        f"over outputs. Models that multiply in float may differ by {FLOAT_TOLERANCE:g}: sums in another order. Models "
        "that multiply integers may differ by as much as they differ from fp32 on `cpu:1` (column fp32): a value that "
        "lies between two steps of an 8-bit grid is rounded to either, and what follows is quantized again. How far "
        "that alone carries a model is the next column: the same file on `cpu:1` with its biases and gains moved by "
        "one part in a million."
    )
    return ["## The same file on other targets", text, tables.table(head, sorted(rows))]


def _given_up(result: Row) -> list[str]:
    rows = [
        (*key.split(), why)
        for key, made in sorted(result.get("made", {}).items())
        for why in (*_together(made["given_up"]), *_first([note for note in made["notes"] if "given up" in note]))
    ]
    rows += [(*key.split()[1:], f"failed to {key.split()[0]}: {why}") for key, why in result.get("failed", {}).items()]
    if not rows:
        return []
    head = ("model", "target", "why")
    return ["## What was given up on a target, and why", tables.table(head, [tuple(row) for row in rows])]


def _together(reasons: Sequence[str]) -> list[str]:
    """Reasons that differ only in what each edit costs alone as one, with the least and the most."""
    costs: dict[str, list[str]] = {}
    for reason in reasons:
        words, _, cost = reason.partition("; alone it costs ")
        costs.setdefault(words, []).extend([cost] if cost else [])
    return [
        words if not found else f"{words}; alone each costs {' to '.join(sorted({min(found), max(found)}))}"
        for words, found in costs.items()
    ]


def _first(notes: Sequence[str]) -> list[str]:
    """The first few; a target refuses many forms that are there only to find out which."""
    more = len(notes) - _TOLD
    return [*notes[:_TOLD], *([f"{more} forms more were given up likewise"] if more > 0 else [])]
