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


PEERS = {
    "ort-dynamic": ort_dynamic,
    "olive-fused-int8": olive_fused_int8,
    "onnxsim-wanda-30-int8": partial(_onnxsim_wanda, sparsity=0.3),
    "onnxsim-wanda-50-int8": partial(_onnxsim_wanda, sparsity=0.5),
}


def main(arguments: list[str]) -> None:
    """Run the peer named."""
    name, source, target = arguments
    PEERS[name](Path(source), Path(target))


if __name__ == "__main__":
    main(sys.argv[1:])
