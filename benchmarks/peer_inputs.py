"""What the tools of `peers.py` are given; imports what each environment has, and nothing before it is needed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

Job = dict[str, Any]

# Scales of channels are there from this opset on.
_OPSET = 13


def samples(source: Path, job: Job) -> Iterator[dict[str, Any]]:
    """Yield the sample inputs one at a time, as feeds of the model's own inputs."""
    import numpy as np
    import onnx

    if not job["data"]:
        raise ValueError("needs sample inputs, and there are none for this model.")
    with np.load(job["data"]) as stored:
        arrays = dict(stored)
    graph = onnx.load(source, load_external_data=False).graph
    held = {tensor.name for tensor in graph.initializer}
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.input if value.name not in held}
    single = next(iter(arrays.values()))
    for at in range(len(single)):
        feed = {}
        for name, rank in ranks.items():
            array = arrays.get(name, single)
            feed[name] = np.asarray(array[at]) if array.ndim > rank else array[at : at + 1]
        yield feed


def raised(source: Path, folder: Path) -> Path:
    """The model at an opset that has a scale for each channel."""
    import onnx
    from onnx import version_converter

    model = onnx.load(source)
    if next(one.version for one in model.opset_import if one.domain in {"", "ai.onnx"}) >= _OPSET:
        return source
    raised = folder / "raised.onnx"
    onnx.save(version_converter.convert_version(model, _OPSET), raised)
    return raised


def transformers_only(job: Job) -> None:
    if job["kind"] != "transformer":
        raise ValueError("for transformers only; this model is none of its types.")
