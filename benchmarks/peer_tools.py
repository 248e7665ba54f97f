"""The calls that `peers.py` makes, each as the tool's documentation has them.

Every function imports its own tool: it runs where the others are not installed.
"""

import logging
import os
import runpy
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peer_inputs import raised, samples, transformers_only

Job = dict[str, Any]


def ort_dynamic(source: Path, target: Path, job: Job) -> None:
    """Quantize weights per channel with onnxruntime's `quantize_dynamic`; activations are quantized at run time."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # It recommends a pre-processing step at every call.
    logging.disable(logging.WARNING)
    quantize_dynamic(
        source,
        target,
        per_channel=True,
        weight_type=QuantType.QInt8,
        # Where shapes are not inferred, as behind fused operators, it asks for this in its error.
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT} if job.get("fused") else None,
    )


def ort_dynamic_prepared(source: Path, target: Path, job: Job) -> None:
    """The same after onnxruntime's own pre-processing."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        ort_dynamic(prepared, target, job)


def ort_transformers(source: Path, target: Path, job: Job) -> None:
    """Fuse a transformer by onnxruntime's optimizer, then quantize dynamically."""
    from onnxruntime.transformers.optimizer import optimize_model

    transformers_only(job)
    with tempfile.TemporaryDirectory() as folder:
        fused = Path(folder) / "fused.onnx"
        made = optimize_model(
            str(source), model_type=job["model_type"], num_heads=job["heads"], hidden_size=job["width"]
        )
        made.save_model_to_file(str(fused))
        ort_dynamic(fused, target, job | {"fused": True})


def ort_static(source: Path, target: Path, job: Job, *, per_channel: bool = True) -> None:
    """Quantize with onnxruntime's `quantize_static` as its guide says for x64: pre-processed, QDQ, U8S8, min-max."""
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    feeds = list(samples(source, job))
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(raised(source, Path(folder)), prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            target,
            _reader(feeds),
            per_channel=per_channel,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def ort_static_tensor(source: Path, target: Path, job: Job) -> None:
    """The same with one scale for each weight."""
    ort_static(source, target, job, per_channel=False)


def olive(source: Path, target: Path, job: Job) -> None:
    """Run the two passes of Olive's recipes for CPU that take ONNX."""
    from olive.data.registry import Registry
    from olive.workflows import run

    transformer = job["kind"] == "transformer"
    feeds = [] if transformer else list(samples(source, job))

    @Registry.register_dataset()  # type: ignore[untyped-decorator]
    def sample_inputs(**_: object) -> list[tuple[dict[str, Any], int]]:
        return [({name: value[0] for name, value in feed.items()}, 0) for feed in feeds]

    if transformer:
        passes: Job = {
            "fuse": {"type": "OrtTransformersOptimization", "model_type": job["model_type"], "num_heads": job["heads"],
                     "hidden_size": job["width"], "opt_level": 1},
            "quantize": {"type": "OnnxDynamicQuantization", "per_channel": True, "precision": "int8"},
        }  # fmt: skip
    else:
        passes = {
            "tidy": {"type": "OnnxPeepholeOptimizer"},
            "quantize": {"type": "OnnxStaticQuantization", "data_config": "samples", "per_channel": True,
                         "activation_type": "uint8", "precision": "int8"},
        }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        run(
            {
                "input_model": {"type": "ONNXModel", "model_path": str(raised(source, Path(folder)))},
                "systems": {"local": {"type": "LocalSystem", "accelerators": [{"device": "cpu"}]}},
                "data_configs": [
                    {"name": "samples", "type": "DataContainer", "load_dataset_config": {"type": "sample_inputs"},
                     "dataloader_config": {"batch_size": 1}}
                ],
                "host": "local",
                "target": "local",
                "passes": passes,
                "output_dir": f"{folder}/out",
                "cache_dir": f"{folder}/cache",
                "evaluate_input_model": False,
            }
        )  # fmt: skip
        found = sorted(Path(folder, "out").rglob("*.onnx"))
        if not found:
            raise FileNotFoundError("Olive wrote no model; what it logged says why.")
        shutil.copyfile(found[-1], target)


def onnxslim(source: Path, target: Path, job: Job) -> None:
    """Simplify."""
    del job
    import onnx
    import onnxslim as tool

    onnx.save(tool.slim(str(source)), target)


def shrink_ray(source: Path, target: Path, job: Job) -> None:
    """Store weights in 8 bits."""
    del job
    with tempfile.TemporaryDirectory() as folder:
        sys.argv = ["shrink", "--method", "integer_weights", "--per-channel", "--output_dir", folder, str(source)]
        runpy.run_module("onnx_shrink_ray.shrink", run_name="__main__")
        shutil.copyfile(next(Path(folder).glob("*.onnx")), target)


def nncf(source: Path, target: Path, job: Job) -> None:
    """Quantize with calibration."""
    import nncf as tool
    import onnx

    options: Job = {"model_type": tool.ModelType.TRANSFORMER} if job["kind"] == "transformer" else {}
    with tempfile.TemporaryDirectory() as folder:
        model = onnx.load(raised(source, Path(folder)))
        onnx.save(tool.quantize(model, tool.Dataset(list(samples(source, job))), subset_size=300, **options), target)


def neural_compressor_dynamic(source: Path, target: Path, job: Job) -> None:
    """Quantize at run time."""
    _neural_compressor(source, target, job, "dynamic")


def neural_compressor_static(source: Path, target: Path, job: Job) -> None:
    """Quantize with calibration."""
    _neural_compressor(source, target, job, "static")


def _neural_compressor(source: Path, target: Path, job: Job, approach: str) -> None:
    from neural_compressor import PostTrainingQuantConfig, quantization

    class Loader:
        batch_size = 1

        def __iter__(self) -> Iterator[tuple[Any, int]]:
            # One input goes as an array, several by name.
            for feed in samples(source, job):
                yield (feed if len(feed) > 1 else next(iter(feed.values()))), 0

    given: Job = {} if approach == "dynamic" else {"calib_dataloader": Loader()}
    source, target = source.resolve(), target.resolve()
    with tempfile.TemporaryDirectory() as folder:
        path = str(raised(source, Path(folder)))
        # It leaves a folder of its own where it runs.
        os.chdir(folder)
        logged = _Logged()
        logging.getLogger("neural_compressor").addHandler(logged)
        made = quantization.fit(path, PostTrainingQuantConfig(approach=approach), **given)
        if made is None:
            raise RuntimeError(f"neural-compressor gave no model: {logged.error}")
        made.save(str(target))


class _Logged(logging.Handler):
    """Keeps the last error that a tool only logs."""

    error = "its log does not say why"

    def emit(self, record: logging.LogRecord) -> None:
        lines = [line for line in record.getMessage().splitlines() if "Error" in line]
        self.error = lines[-1] if lines else self.error


def _reader(feeds: list[dict[str, Any]]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = iter(feeds)

        def get_next(self) -> object:
            return next(self._feeds, None)

    return Reader()
