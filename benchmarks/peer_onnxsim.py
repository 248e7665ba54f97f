"""onnxsim's calls that `peers.py` makes: simplification, structured pruning, int8."""

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.peer_inputs import raised, samples, transformers_only
from benchmarks.peer_tools import ort_dynamic

Job = dict[str, Any]

_PRUNED, _SAMPLES = 0.3, 64


def onnxsim_int8(source: Path, target: Path, job: Job) -> None:
    """Simplify, then quantize by onnxsim's own functions."""
    import onnx
    import onnxsim

    with tempfile.TemporaryDirectory() as folder:
        simple, _ = onnxsim.simplify(onnx.load(raised(source, Path(folder))))
    onnx.save(_onnxsim_quantized(simple, source, job), target)


def onnxsim_pruned(source: Path, target: Path, job: Job) -> None:
    """Remove heads, neurons and channels by onnxsim's calibrated pruning, refit, then quantize."""
    import onnx
    import onnxsim

    feeds = list(samples(source, job))[:_SAMPLES]
    with tempfile.TemporaryDirectory() as folder:
        simple, _ = onnxsim.simplify(onnx.load(raised(source, Path(folder))))
    before = _weights(simple)
    cut = onnxsim.apply_attention_head_wanda_pruning(simple, feeds, sparsity=_PRUNED)
    cut = onnxsim.apply_structured_wanda_pruning(cut, feeds, sparsity=_PRUNED)
    if _weights(cut) == before:
        raise RuntimeError("onnxsim found nothing to prune.")
    cut = onnxsim.apply_pruning_finetune(simple, cut, feeds)
    onnx.save(_onnxsim_quantized(cut, source, job), target)


def onnxsim_fused_pruned(source: Path, target: Path, job: Job) -> None:
    """The same on what onnxruntime's optimizer has fused, where onnxsim finds heads and neurons of more exports."""
    import onnx
    import onnxsim
    from onnxruntime.transformers.optimizer import optimize_model

    transformers_only(job)
    feeds = list(samples(source, job))[:_SAMPLES]
    fused = optimize_model(str(source), model_type=job["model_type"], num_heads=job["heads"], hidden_size=job["width"])
    before = _weights(fused.model)
    cut = onnxsim.apply_structured_wanda_pruning(fused.model, feeds, sparsity=_PRUNED)
    cut = onnxsim.apply_attention_head_wanda_pruning(cut, feeds, sparsity=_PRUNED)
    if _weights(cut) == before:
        raise RuntimeError("onnxsim found nothing to prune.")
    cut = onnxsim.apply_pruning_finetune(fused.model, cut, feeds)
    if all(one.domain != "com.microsoft" for one in cut.opset_import):
        # Its result names no version of the fused operators, without which nothing reads it.
        cut.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    with tempfile.TemporaryDirectory() as folder:
        pruned = Path(folder) / "pruned.onnx"
        onnx.save(cut, pruned)
        ort_dynamic(pruned, target, job | {"fused": True})


def _onnxsim_quantized(model: Any, source: Path, job: Job) -> Any:
    import onnxsim

    if job["kind"] != "convolutions" or not job["data"]:
        # Simplified once more, as its docstring says, which drops the weights that integers have replaced.
        return onnxsim.simplify(onnxsim.quantize_dynamic(model))[0]
    return onnxsim.quantize_static(model, list(samples(source, job)))


def _weights(model: Any) -> list[tuple[int, ...]]:
    return sorted(tuple(tensor.dims) for tensor in model.graph.initializer)
