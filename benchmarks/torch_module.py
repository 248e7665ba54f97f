"""How close the graph as a torch module comes to onnxruntime, model by model, and which of both is nearer to float64.

    python -m benchmarks.torch_module [--only MODEL] [--folder benchmarks]

Writes `torch_module.json`, and `torch_module.md` from it. Both compute in float32 on the same samples; the same module
in float64 says how far rounding alone carries each of them. Gradients are not looked at here: each operator's are held
against finite differences by the tests.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import models, script, tables, tasks
from onnxprune.data import load_samples
from onnxprune.errors import OnnxPruneError
from onnxprune.learn.module import OnnxModule, changed
from onnxprune.model import load
from onnxprune.runtime import open_session
from onnxprune.synthetic import probes

_FIXTURES = Path(__file__).parents[1] / "fixtures"
_SAMPLES = 4
_TINY = 1e-30

Row = dict[str, Any]
Arrays = dict[str, np.ndarray[Any, Any]]


def sources() -> dict[str, tuple[Path, Path | None]]:
    """Every model with its samples, fixtures first."""
    found: dict[str, tuple[Path, Path | None]] = {
        folder.name: (folder / "model.onnx", folder / "calibration.npz")
        for folder in sorted(_FIXTURES.iterdir())
        if (folder / "model.onnx").exists()
    }
    return found | {name: (models.get(name), tasks.calibration_file(name)) for name in sorted(models.MODELS)}


def measured(path: Path, data: Path | None) -> Row:
    """Return the largest distance of an output over samples, as a share of its largest value, or why there is none."""
    model = load(path)
    session = open_session(model)
    try:
        module = OnnxModule(model)
    except OnnxPruneError as error:
        return {"why": str(error).splitlines()[0]}
    exact = OnnxModule(model, floating=torch.float64)
    feeds = load_samples(str(data), session.inputs).feeds[:_SAMPLES] if data else probes(model, session)
    words = f"{len(feeds)}{'' if data else ' made up'}"
    row: Row = {"samples": words, "apart": 0.0, "runtime": 0.0, "module": 0.0}
    for sample in feeds:
        wanted = {k: v for k, v in session.run(sample).items() if isinstance(v, np.ndarray) and v.dtype.kind == "f"}
        with torch.no_grad():
            mine, truth = (
                {name: value.numpy() for name, value in each(sample).items() if name in wanted}
                for each in (module, exact)
            )
        for key, (one, other) in {
            "apart": (mine, wanted),
            "runtime": (wanted, truth),
            "module": (mine, truth),
        }.items():
            row[key] = max(row[key], *(_distance(one[name], other[name]) for name in wanted))
    row["unchanged"] = not changed(model, module)
    return row


def _distance(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    wide = other.astype(np.float64)
    return float(np.abs(one - wide).max(initial=0.0) / max(float(np.abs(wide).max(initial=0.0)), _TINY))


def markdown(result: Row) -> str:
    """Return the page written from the results."""
    header = ["model", "samples", "from onnxruntime", "onnxruntime from float64", "module from float64", "written back"]
    body = [
        [name, row["why"], "", "", "", ""]
        if "why" in row
        else [
            name,
            row["samples"],
            *(f"{row[key]:.1e}" for key in ("apart", "runtime", "module")),
            "unchanged" if row["unchanged"] else "CHANGED",
        ]
        for name, row in result["models"].items()
    ]
    return "\n".join(
        [
            "# The graph as a torch module, measured",
            "",
            "Written by `python -m benchmarks.torch_module`; not edited by hand.",
            f"Machine: {json.dumps(result['machine'])}",
            "",
            "Largest difference of an output, as a share of that output's largest value, both in float32; then how far",
            "each is from the same module in float64.",
            "",
            tables.table(header, body),
            "",
        ]
    )


def main(arguments: list[str]) -> int:
    """Measure and write both files."""
    parser = script.options(__doc__)
    parser.add_argument("--only")
    asked = script.read(parser, arguments)
    result = {"models": {}} | script.held(asked.folder, "torch_module") | {"machine": script.machine()}
    for name, (path, data) in sources().items():
        if asked.only in {None, name}:
            result["models"][name] = measured(path, data)
            script.write(asked.folder, "torch_module", result, markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
