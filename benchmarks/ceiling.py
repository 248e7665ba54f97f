"""How near models come to the machine's own limit: the share of a run that multiplies, and the run beside its products.

    python -m benchmarks.ceiling [--only PREFIX ...] [--files FOLDER] [--make] [--rounds 60] [--fresh] [--folder .]

Writes `ceiling.json`, and `ceiling.md` from it, after each model; without `--fresh` models that the .json holds are
not measured again. `--make` makes the files alone, so that the machine need be idle for the measuring only. Each model
stands as exported (fp32), after the default pipeline less `streamline`, and after the default pipeline, all in one
race. Shares are of onnxruntime's own profile, medians of each operator's time; profiling costs every operator some.
"""

import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import ceiling_page, contenders, models, paired, script, tasks
from benchmarks.peak import Peak, best, gemm_peaks
from onnxprune import bench
from onnxprune.cost import macs
from onnxprune.data import load_samples
from onnxprune.model import load
from onnxprune.packing import unpacked
from onnxprune.runtime import observe_shapes, open_session, operator_times

_CLASSIFIER = Path(__file__).parents[1] / "fixtures" / "gloss-classifier"
MODELS = (
    "minilm-dynamo-sdpa", "minilm-dynamo-eager", "minilm-torchscript-sdpa", "minilm-torchscript-eager",
    "gloss-classifier", "ppocr-rec", "effnet-torchscript",
)  # fmt: skip
# Operators that multiply matrices or filters; those that quantize their input or add a bias do so in their time.
PRODUCTS = frozenset({
    "Attention", "Conv", "ConvInteger", "ConvTranspose", "DynamicQuantizeMatMul", "FusedConv", "FusedGemm",
    "FusedMatMul", "GRU", "Gemm", "LSTM", "MatMul", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits",
    "MultiHeadAttention", "QAttention", "QGemm", "QLinearConv", "QLinearMatMul",
})  # fmt: skip

Row = dict[str, Any]


def measured(name: str, folder: Path, rounds: int, peaks: dict[str, Peak]) -> Row:
    """Return a model's row: its forms with the time and the share of products, and how far each is from the peaks."""
    path, _, feed = _subject(name)
    forms = {"fp32": path, **optimized(name, folder)}
    model, _ = unpacked(load(path))
    work = macs(model, {tensor: seen[0] for tensor, seen in observe_shapes(model, [feed]).items()})
    race = paired.race(list(forms.values()), [feed], rounds=rounds)
    timings = dict(zip(forms, race.timings(), strict=True))
    rows = []
    for form, file in forms.items():
        spent = operator_times(file, feed, runs=30)
        peak = best(peaks, integer=form != "fp32")
        at_peak_ms = work / peak.gmacs / 1e6
        rows.append({
            "form": form,
            "median_ms": timings[form].median_ms,
            "speedup": timings[form].speedup, "low": timings[form].low, "high": timings[form].high,
            "products_share": sum(ms for op, ms in spent.items() if op in PRODUCTS) / sum(spent.values()),
            "at_peak_ms": at_peak_ms,
            "times_peak": timings[form].median_ms / at_peak_ms,
            "operators_ms": dict(sorted(spent.items(), key=lambda entry: -entry[1])),
        })  # fmt: skip
    step = dict(zip(("ratio", "low", "high"), paired.paired_ratio(*race.runs_ms[-2:]), strict=True))
    return {"model": name, "macs": work, "forms": rows, "streamline": step if len(forms) == 3 else None}


def _subject(name: str) -> tuple[Path, Path, dict[str, Any]]:
    """The model's file, its sample inputs and the one that is timed."""
    if name != "gloss-classifier":
        data = tasks.calibration_file(name)
        if data is None:
            raise SystemExit(f"{name} has no sample inputs.")
        return models.get(name), data, tasks.feed(name)
    data = _CLASSIFIER / "calibration.npz"
    path = _CLASSIFIER / "model.onnx"
    return path, data, dict(load_samples(str(data), open_session(path).inputs).feeds[0])


def optimized(name: str, folder: Path) -> dict[str, Path]:
    """Return what the default pipeline makes of a model without and with `streamline`; files in the folder are kept."""
    path, data, feed = _subject(name)
    options: list[str | Path] = ["--target", "cpu:1", "--data", data]
    for entry, array in feed.items():
        options += ["--shape", f"{entry}={'x'.join(map(str, array.shape))}"]
    without = [text for text in bench.DEFAULT_PASSES if not text.startswith("streamline")]
    specs = {"optimize": without}
    if without != list(bench.DEFAULT_PASSES):
        specs = {"optimize less streamline": without, "optimize": list(bench.DEFAULT_PASSES)}
    made = {}
    for form, passes in specs.items():
        target = folder / f"{name}.{form.replace(' ', '-')}.onnx"
        if not target.exists():
            named = [word for text in passes for word in ("--pass", text)]
            attempt = contenders.onnxprune(path, target, *options, *named, "--fidelity", "0.95")
            if attempt.error:
                raise SystemExit(f"{name}, {form}: {attempt.error}")
        made[form] = target
    return made


def main(arguments: list[str]) -> None:
    """Measure what is asked for and is not there yet; write both files after each model."""
    parser = script.options(__doc__, rounds=60, models=True)
    parser.add_argument("--files", type=Path, help="folder for the optimized models, kept between runs")
    parser.add_argument("--make", action="store_true", help="make the files of --files and measure nothing")
    parser.add_argument("--fresh", action="store_true", help="measure again what the .json holds")
    asked = script.read(parser, arguments)
    wanted = [name for name in MODELS if name.startswith(tuple(asked.only))]
    kept = {row["model"]: row for row in script.held(asked.folder, "ceiling").get("models", ())}
    if asked.make:
        if asked.files is None:
            parser.error("--make needs --files")
        asked.files.mkdir(parents=True, exist_ok=True)
        for name in wanted:
            print(f"{name} …", file=sys.stderr, flush=True)
            optimized(name, asked.files)
        return
    if asked.fresh:
        kept = {name: row for name, row in kept.items() if name not in wanted}
    peaks = gemm_peaks()
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.files or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for name in wanted:
            if name in kept:
                continue
            print(f"{name} …", file=sys.stderr, flush=True)
            kept[name] = measured(name, folder, asked.rounds, peaks)
            result = {
                "machine": script.machine(), "threads": 1, "rounds": asked.rounds,
                "peaks": {operator: asdict(peak) for operator, peak in peaks.items()},
                "models": [kept[each] for each in MODELS if each in kept],
            }  # fmt: skip
            script.write(asked.folder, "ceiling", result, ceiling_page.markdown)


if __name__ == "__main__":
    main(sys.argv[1:])
