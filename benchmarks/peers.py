"""What a user would run instead of onnxprune; each takes a file and writes a file.

python -m benchmarks.peers NAME INPUT.onnx OUTPUT.onnx [JOB.json]

Runs in the tool's own environment (`environments.py`), so that nothing is imported here but what comes with Python.
JOB.json: {"data": sample inputs as `.npz`, or null; "kind": "transformer" or another; "model_type", "heads", "width"
of a transformer}.
"""

import contextlib
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import peer_onnxsim, peer_tools


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A tool as its documentation says to use it.

    Attributes:
        run: input, output, job.
        environment: where it runs, of `environments.py`.
        package: whose version the tables give.
        settings: what was chosen, in words.
        source: the documentation that recommends it.
    """

    run: Callable[[Path, Path, dict[str, Any]], None]
    environment: str
    package: str
    settings: str
    source: str


_ORT_GUIDE = "onnxruntime.ai/docs/performance/model-optimizations/quantization.html"

PEERS = {
    "ort-dynamic": Peer(
        run=peer_tools.ort_dynamic, environment="onnxruntime", package="onnxruntime",
        settings="`quantize_dynamic(per_channel=True, weight_type=QInt8)`; recommended for transformers and recurrent "
        "nets",
        source=_ORT_GUIDE,
    ),
    "ort-dynamic-prepared": Peer(
        run=peer_tools.ort_dynamic_prepared, environment="onnxruntime", package="onnxruntime",
        settings="the same after `quant_pre_process`, as the guide recommends",
        source=_ORT_GUIDE,
    ),
    "ort-static": Peer(
        run=peer_tools.ort_static, environment="onnxruntime", package="onnxruntime",
        settings="`quant_pre_process`, then `quantize_static`: QDQ, unsigned activations, signed weights, a scale a "
        "channel, min-max ranges; recommended for convolutions",
        source=_ORT_GUIDE,
    ),
    "ort-static-tensor": Peer(
        run=peer_tools.ort_static_tensor, environment="onnxruntime", package="onnxruntime",
        settings="the same with one scale a weight, its default",
        source=_ORT_GUIDE,
    ),
    "ort-transformers": Peer(
        run=peer_tools.ort_transformers, environment="olive", package="onnxruntime",
        settings="`onnxruntime.transformers.optimizer.optimize_model` with the model's type, heads and width, then "
        "`quantize_dynamic(per_channel=True)`",
        source="onnxruntime.ai/docs/performance/transformers-optimization.html",
    ),
    "olive": Peer(
        run=peer_tools.olive, environment="olive", package="olive-ai",
        settings="transformers: `OrtTransformersOptimization`, `OnnxDynamicQuantization(precision=int8, per_channel)`; "
        "others: `OnnxPeepholeOptimizer`, `OnnxStaticQuantization` on the sample inputs",
        source="microsoft.github.io/Olive, its BERT and ResNet recipes for CPU",
    ),
    "onnxsim-int8": Peer(
        run=peer_onnxsim.onnxsim_int8, environment="onnxsim", package="onnxsim",
        settings="`simplify`, then its own `quantize_dynamic` (transformers, no data) or `quantize_static` (others)",
        source="onnxsim's docstrings",
    ),
    "onnxsim-pruned-int8": Peer(
        run=peer_onnxsim.onnxsim_pruned, environment="onnxsim", package="onnxsim",
        settings="`simplify`, `apply_attention_head_wanda_pruning` and `apply_structured_wanda_pruning` at sparsity "
        "0.3 on 64 samples, `apply_pruning_finetune`, then as `onnxsim-int8`",
        source="onnxsim's docstring of `optimize_pipeline`",
    ),
    "onnxsim-fused-pruned-int8": Peer(
        run=peer_onnxsim.onnxsim_fused_pruned, environment="olive", package="onnxsim",
        settings="onnxruntime's optimizer of transformers, then onnxsim's pruning and refit as above, then "
        "`quantize_dynamic(per_channel=True)`",
        source="onnxsim's docstring of `apply_attention_head_pruning`, which names that optimizer",
    ),
    "onnxslim": Peer(
        run=peer_tools.onnxslim, environment="onnxslim", package="onnxslim",
        settings="`onnxslim.slim`; simplification alone, in float",
        source="pypi.org/project/onnxslim",
    ),
    "shrink-ray": Peer(
        run=peer_tools.shrink_ray, environment="shrink-ray", package="onnx-shrink-ray",
        settings="`--method integer_weights --per-channel`: weights stored in 8 bits, computed in float",
        source="pypi.org/project/onnx-shrink-ray",
    ),
    "nncf": Peer(
        run=peer_tools.nncf, environment="nncf", package="nncf",
        settings="`nncf.quantize(model, Dataset, model_type=TRANSFORMER for transformers, subset_size=300)`",
        source="docs.openvino.ai, Basic Quantization Flow",
    ),
    "neural-compressor-dynamic": Peer(
        run=peer_tools.neural_compressor_dynamic, environment="neural-compressor", package="neural-compressor",
        settings="`quantization.fit` with `PostTrainingQuantConfig(approach='dynamic')`",
        source="intel.github.io/neural-compressor 2.6, the last that takes ONNX",
    ),
    "neural-compressor-static": Peer(
        run=peer_tools.neural_compressor_static, environment="neural-compressor", package="neural-compressor",
        settings="`quantization.fit` with `PostTrainingQuantConfig(approach='static')` on the sample inputs",
        source="intel.github.io/neural-compressor 2.6, the last that takes ONNX",
    ),
}  # fmt: skip


def main(arguments: list[str]) -> None:
    """Run the peer named."""
    name, source, target, *job = arguments
    told = json.loads(Path(job[0]).read_text(encoding="utf-8")) if job else {"data": None, "kind": "unknown"}
    files = Path(source).resolve(), Path(target).resolve()
    # Some tools leave what they wrote in between where they stand.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        PEERS[name].run(*files, told)


if __name__ == "__main__":
    main(sys.argv[1:])
