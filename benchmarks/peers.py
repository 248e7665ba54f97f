"""What a user would run instead of onnxprune; each takes a file and writes a file.

python -m benchmarks.peers NAME INPUT.onnx OUTPUT.onnx
"""

import logging
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path


def ort_dynamic(source: Path, target: Path) -> None:
    """Quantize weights per channel with onnxruntime's `quantize_dynamic`; activations are quantized at run time."""
    # Imported here: another peer must not fail for want of what this one needs.
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # It recommends a pre-processing step at every call.
    logging.disable(logging.WARNING)
    quantize_dynamic(source, target, per_channel=True, weight_type=QuantType.QInt8)


def olive_fused_int8(source: Path, target: Path) -> None:
    """Fuse a transformer, then quantize dynamically: Olive's two passes of its BERT recipe for CPU that take ONNX."""
    from olive.workflows import run

    with tempfile.TemporaryDirectory() as folder:
        run(
            {
                "input_model": {"type": "ONNXModel", "model_path": str(source)},
                "systems": {"local": {"type": "LocalSystem", "accelerators": [{"device": "cpu"}]}},
                "host": "local",
                "target": "local",
                "passes": {
                    "fuse": {"type": "OrtTransformersOptimization", "model_type": "bert", "num_heads": 12,
                             "hidden_size": 384, "opt_level": 1},
                    "quantize": {"type": "OnnxDynamicQuantization", "per_channel": True, "precision": "int8"},
                },
                "output_dir": f"{folder}/out",
                "cache_dir": f"{folder}/cache",
                "evaluate_input_model": False,
            }
        )  # fmt: skip
        found = sorted(Path(folder, "out").rglob("*.onnx"))
        shutil.copyfile(found[-1], target)


def _onnxsim_wanda(source: Path, target: Path, sparsity: float) -> None:
    """Remove neurons and heads by onnxsim's calibrated pruning, then quantize dynamically with onnxruntime.

    In the plain export it finds neither; in one that onnxruntime's transformer optimizer has fused it finds both.
    """
    import numpy as np
    import onnx
    import onnxsim
    from onnxruntime.transformers.optimizer import optimize_model

    from benchmarks import tasks

    data = tasks.calibration_file("minilm")
    if data is None:
        raise FileNotFoundError("minilm")
    names = [value.name for value in onnx.load(source, load_external_data=False).graph.input]
    with np.load(data) as arrays:
        samples = [{name: arrays[name][at : at + 1] for name in names} for at in range(64)]
    with tempfile.TemporaryDirectory() as folder:
        pruned = Path(folder) / "pruned.onnx"
        fused = optimize_model(str(source), model_type="bert", num_heads=12, hidden_size=384, opt_level=0).model
        narrow = onnxsim.apply_structured_wanda_pruning(fused, samples, sparsity=sparsity)
        onnx.save(onnxsim.apply_attention_head_wanda_pruning(narrow, samples, sparsity=sparsity), pruned)
        ort_dynamic(pruned, target)


def _ort_static(source: Path, target: Path, model: str, *, per_channel: bool) -> None:
    """Quantize with onnxruntime's `quantize_static` as its guide says for x64: pre-processed, QDQ, U8S8, min-max."""
    import numpy as np
    import onnx
    from onnx import version_converter
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from benchmarks import tasks

    data = tasks.calibration_file(model)
    if data is None:
        raise FileNotFoundError(model)
    with np.load(data) as stored:
        arrays = dict(stored)
    proto = onnx.load(source)
    if proto.opset_import[0].version < 13:
        # Scales of channels are there from this opset on.
        proto = version_converter.convert_version(proto, 13)
    names = [value.name for value in proto.graph.input]
    feeds = [{name: arrays[name][at : at + 1] for name in names} for at in range(len(arrays[names[0]]))]

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._feeds = iter(feeds)

        def get_next(self) -> object:
            return next(self._feeds, None)

    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        raised, prepared = Path(folder) / "raised.onnx", Path(folder) / "prepared.onnx"
        onnx.save(proto, raised)
        quant_pre_process(raised, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            target,
            Reader(),
            per_channel=per_channel,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


# Models whose static quantization is compared, each with its own calibration inputs.
STATIC = ("effnet-dynamo", "effnet-torchscript", "ppocr-rec", "ppocr-det", "ppocr-cls")

PEERS = {
    "ort-dynamic": ort_dynamic,
    "olive-fused-int8": olive_fused_int8,
    "onnxsim-wanda-30-int8": partial(_onnxsim_wanda, sparsity=0.3),
    "onnxsim-wanda-50-int8": partial(_onnxsim_wanda, sparsity=0.5),
    **{f"ort-static {name}": partial(_ort_static, model=name, per_channel=True) for name in STATIC},
    **{f"ort-static-tensor {name}": partial(_ort_static, model=name, per_channel=False) for name in STATIC},
}


def main(arguments: list[str]) -> None:
    """Run the peer named."""
    name, source, target = arguments
    PEERS[name](Path(source), Path(target))


if __name__ == "__main__":
    main(sys.argv[1:])
