"""Every target that runs here on real models: fp32 against the model optimized for it, and whether targets agree.

    python -m benchmarks.mobile make   [--model NAME ...] [--target NAME ...]   optimize each model for each target
    python -m benchmarks.mobile time   [--model NAME ...] [--target NAME ...]   figures, on a machine that is idle
    python -m benchmarks.mobile agree  [--model NAME ...]                       outputs across targets
    python -m benchmarks.mobile forms                                           int8 forms of EfficientNet-lite0
    python -m benchmarks.mobile all                                             all of it

Each step adds to `mobile.json` and writes `mobile.md` from it. Models have fixed shapes, as phones ship them. A cell
is milliseconds, executed instructions or a forecast, as its target gives them; a target that is not set up is left out,
and the page says so.
"""

import argparse
import json
import math
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import onnxprune
from benchmarks import mobile_page, models, packages, tasks
from onnxprune.errors import OnnxPruneError
from onnxprune.measurement import measure
from onnxprune.targets.forecast import ForecastTarget
from onnxprune.targets.target import parse_target

_FIXTURES = Path(__file__).parents[1] / "fixtures"
MODELS = (
    "fashion-convnet",
    "gloss-classifier",
    "gloss-gpt",
    "minilm-dynamo-sdpa",
    "effnet-torchscript",
    "ppocr-rec",
    "ppocr-cls",
    "ppocr-det",
)
# A phone's screen is no page: text is found at this size, and at a smaller one where an emulator counts.
_SHAPES = {"ppocr-det": {"x": (1, 3, 320, 320)}}
_EMULATED = {"ppocr-det": {"x": (1, 3, 160, 160)}}
TARGETS = ("cpu:1", "cpu-mobile", "xnnpack", "web", "xnnpack-web", "arm64", "arm64-xnnpack", "nnapi", "coreml")
_AGREE = ("cpu:1", "xnnpack", "web", "arm64")
_SECONDS = 2.0
_MOVED = 1e-6
_FOLDERS = re.compile(r"(?<![\w.])/(?:[^/\s:]+/)+")
# The forms of EfficientNet-lite0 that XNNPACK is asked about, and where.
_FORMS = ("fp32", "U8S8", "S8S8")
_FORM_TARGETS = ("cpu:1", "xnnpack", "xnnpack-web", "arm64", "arm64-xnnpack")

Row = dict[str, Any]
Feed = dict[str, NDArray[Any]]


def shapes(name: str, target: str) -> dict[str, tuple[int, ...]]:
    """Return the input's sizes where they are not those of the first sample."""
    emulated = parse_target(target).latency == "instructions"
    return (emulated and _EMULATED.get(name)) or _SHAPES.get(name, {})


def source(name: str, target: str = "cpu:1") -> tuple[Path, Path | None, Feed]:
    """Return the model in the fixed shapes of a target, its calibration samples and one input."""
    if (_FIXTURES / name).is_dir():
        path, data = _FIXTURES / name / "model.onnx", _FIXTURES / name / "calibration.npz"
        with np.load(data) as stored:
            feed = {key: value[:1] for key, value in stored.items() if key != "labels"}
    else:
        path, data, feed = models.get(name), tasks.calibration_file(name), tasks.feed(name)
    wanted = shapes(name, target)
    for key, shape in wanted.items():
        feed[key] = feed[key][tuple(slice(size) for size in shape)]
    stem = name if wanted == _SHAPES.get(name, {}) else f"{name}-emulated"
    fixed = packages.cache_folder("mobile") / f"{stem}.fixed.onnx"
    if not fixed.exists():
        sizes = [f"{key}={'x'.join(map(str, value.shape))}" for key, value in feed.items()]
        onnxprune.deploy(path, fixed_shapes=sizes, output=fixed.with_name(stem))
    return fixed, data, feed


def optimized(name: str, target: str) -> Path:
    """Return where the model optimized for a target lies."""
    return packages.cache_folder("mobile") / f"{name}-{target.replace(':', '')}.onnx"


def make(name: str, target: str) -> Row:
    """Optimize a model for a target; a forecast is no clock, so the processor's is beside it."""
    path, data, feed = source(name, target)
    output = optimized(name, target)
    names = ["cpu:1", target] if isinstance(parse_target(target), ForecastTarget) else [target]
    result = onnxprune.optimize(
        path, output=output, data=None if data is None else str(_samples(data, feed, name)), target=names
    ).to_json()
    return {
        "fidelity": result["fidelity"]["score"],
        "size_share": result["after"]["size_bytes"] / result["before"]["size_bytes"],
        "changes": [change["what"] for one in result["passes"] for change in one["changes"]],
        "given_up": sorted({skip["why"] for one in result["passes"] for skip in one["reverted"]}),
        "notes": result["notes"],
    }


def _samples(data: Path, feed: Feed, name: str) -> Path:
    """Return samples of the fixed shape: cropped images where the shape is smaller, the file itself otherwise."""
    with np.load(data) as stored:
        arrays = dict(stored)
    wrong = [key for key, value in feed.items() if key in arrays and arrays[key].shape[1:] != value.shape[1:]]
    if not wrong:
        return data
    cropped = packages.cache_folder("mobile") / f"{name}.npz"
    for key in wrong:
        arrays[key] = arrays[key][(slice(None), *(slice(size) for size in feed[key].shape[1:]))]
    np.savez(cropped, **arrays)  # type: ignore[arg-type]
    return cropped


def figures(name: str, target: str) -> Row:
    """Time, count or forecast a model and the one optimized for the target."""
    path, _, feed = source(name, target)
    paths = [path, optimized(name, target)]
    row = _slim(measure(parse_target(target), paths, feed, budget_s=_SECONDS * len(paths)).to_json(paths))
    return row | {"input": ", ".join("x".join(map(str, shape)) for shape in shapes(name, target).values())}


def agreement(name: str, target: str) -> Row:
    """Compare what the model optimized for a target answers on others with what it answers on the processor."""
    unchanged, _, feed = source(name, target)
    path = optimized(name, target)
    ran: dict[str, Any] = {}
    for place in _AGREE:
        try:
            (ran[place],) = parse_target(place).run([path], feed)
        except OnnxPruneError as error:
            ran[place] = str(error)
    reference = ran["cpu:1"]
    processor = parse_target("cpu:1")
    with tempfile.TemporaryDirectory() as folder:
        (moved,) = processor.run([_moved(path, Path(folder))], feed)
    (original,) = processor.run([unchanged], feed)
    row: Row = {
        "integers": _integers(path),
        "fp32": _difference(original, reference),
        "moved": _difference(reference, moved),
    }
    for place in _AGREE[1:]:
        row[place] = ran[place] if isinstance(ran[place], str) else _difference(reference, ran[place])
    return row


def _moved(path: Path, folder: Path) -> Path:
    """Write the model with the floats of its biases and gains moved by one part in a million."""
    import onnx

    generator = np.random.default_rng(0)
    model = onnx.load(path)
    # Less than twice as large is another size.
    sizes = {name for node in model.graph.node if node.op_type in {"Resize", "Upsample"} for name in node.input[1:]}
    for stored in model.graph.initializer:
        if stored.data_type == onnx.TensorProto.FLOAT and len(stored.dims) == 1 and stored.name not in sizes:
            values = onnx.numpy_helper.to_array(stored)
            nearby = (values * (1 + _MOVED * generator.standard_normal(values.shape))).astype(np.float32)
            stored.CopyFrom(onnx.numpy_helper.from_array(nearby, stored.name))
    target = folder / path.name
    onnx.save(model, target)
    return target


def _difference(reference: Feed, other: Feed) -> float:
    """Return the largest relative L2 distance of float outputs; of integers the share that differs."""
    worst = 0.0
    for key, value in reference.items():
        here, there = value.astype(np.float64), other[key].astype(np.float64)
        if value.dtype.kind == "f":
            worst = max(worst, float(np.linalg.norm(here - there) / max(np.linalg.norm(here), 1e-30)))
        else:
            worst = max(worst, float(np.mean(here != there)))
    return worst


def _integers(path: Path) -> str:
    """Return which integer arithmetic a model holds."""
    import onnx

    operators = {node.op_type for node in onnx.load(path, load_external_data=False).graph.node}
    found = [
        words
        for words, mark in (("dynamic products", "MatMulInteger"), ("static convolutions", "QuantizeLinear"))
        if mark in operators
    ]
    return " and ".join(found) or "none"


def forms(targets: Sequence[str]) -> Row:
    """EfficientNet-lite0 in each form: where its nodes run, and what they cost.

    The plan is that of the target xnnpack. Its integers are replayed in either type, so that nothing else differs.
    """
    path, _, feed = source("effnet-torchscript")
    made = optimized("effnet-torchscript", "xnnpack")
    paths = [path]
    for signs in _FORMS[1:]:
        output = made.with_name(f"effnet-form-{signs}.onnx")
        onnxprune.apply(path, _with_signs(made.with_suffix(".plan.json"), signs.lower()), output)
        paths.append(output)
    found: Row = {"forms": list(_FORMS), "targets": {}}
    for target in targets:
        if target in _FORM_TARGETS:
            print(f"forms on {target}", file=sys.stderr, flush=True)
            measured = measure(parse_target(target), paths, feed, budget_s=_SECONDS * len(paths))
            found["targets"][target] = _slim(measured.to_json(paths))
    return found


def _with_signs(plan: Path, signs: str) -> Path:
    """Return a copy of a plan whose static integers have other types; its tensors are the same."""
    document = json.loads(plan.read_text(encoding="utf-8"))
    for edit in document["edits"]:
        if "signs" in edit["args"]:
            edit["args"]["signs"] = signs
    copy = plan.with_name(f"effnet-form-{signs}.plan.json")
    copy.write_text(json.dumps(document), encoding="utf-8")
    shutil.copyfile(plan.with_suffix(".safetensors"), copy.with_suffix(".safetensors"))
    return copy


def _machine() -> Row:
    names = ("onnxprune", "onnx", "onnxruntime", "numpy")
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
    }


def _load(folder: Path) -> Row:
    known = folder / "mobile.json"
    if known.exists():
        return dict(json.loads(known.read_text(encoding="utf-8")))
    return {"made": {}, "figures": {}, "agreement": {}}


def _save(result: Row, folder: Path) -> None:
    """Add what is new to what is on disk: another run of this may have been at work in the meantime."""
    result = _merged(_load(folder), result)
    # JSON has no NaN; what a target does not give is null.
    text = json.dumps(_finite(result), indent=1, allow_nan=False)
    (folder / "mobile.json").write_text(text + "\n", encoding="utf-8")
    (folder / "mobile.md").write_text(mobile_page.markdown(result, MODELS, TARGETS), encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _slim(row: Row) -> Row:
    """Leave out the names of single nodes; counts and reasons stay."""
    for one in row.get("models", []):
        for placed in [one.get("placement"), *one.get("forecasts", [])]:
            if placed:
                placed.pop("nodes", None)
        one["model"] = Path(one["model"]).name
    return row


def main(arguments: Sequence[str]) -> int:
    """Run the steps named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("make", "time", "agree", "forms", "all", "page"))
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--target", action="append", choices=TARGETS)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where the results go")
    asked = parser.parse_args(arguments)
    chosen = asked.model or MODELS
    here = [name for name in asked.target or TARGETS if parse_target(name).probe() is None]
    result = _load(asked.folder) | {"machine": _machine()}
    result["missing"] = {name: str(missing) for name in TARGETS if (missing := parse_target(name).probe()) is not None}
    steps = ("make", "time", "agree", "forms") if asked.step == "all" else (asked.step,)
    for step in steps:
        for name in chosen if step in _STEPS else ():
            for target in here:
                _take(step, name, target, result, asked.folder)
        if step == "forms":
            found = forms(here)
            known = _load(asked.folder).get("forms", {}).get("targets", {})
            result["forms"] = {**found, "targets": {**known, **found["targets"]}}
    _save(result, asked.folder)
    return 0


_STEPS = {"make": ("made", make), "time": ("figures", figures), "agree": ("agreement", agreement)}


def _take(step: str, name: str, target: str, result: Row, folder: Path) -> None:
    """One step of one cell; what fails is a cell, too."""
    if step == "agree" and target not in _AGREE:
        return
    key, (section, run) = f"{name} {target}", _STEPS[step]
    print(f"{step} {key}", file=sys.stderr, flush=True)
    failed = result.setdefault("failed", {})
    try:
        result[section] = result.get(section, {}) | {key: run(name, target)}
        failed[f"{step} {key}"] = None
    except OnnxPruneError as error:
        # Where files lie on this machine is no news.
        failed[f"{step} {key}"] = _FOLDERS.sub("", str(error))
        print(f"    {error}", file=sys.stderr)
    _save(result, folder)


def _merged(known: Row, result: Row) -> Row:
    for key in ("made", "figures", "agreement", "failed"):
        known[key] = {**known.get(key, {}), **result.get(key, {})}
    known["failed"] = {key: why for key, why in known["failed"].items() if why}
    return {**known, **{key: result[key] for key in ("machine", "missing", "forms") if key in result}}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
