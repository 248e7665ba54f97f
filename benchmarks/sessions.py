"""Open ONNX files the one way that the benchmarks run them: CPU, a fixed number of threads."""

from pathlib import Path
from typing import Any

import onnxruntime as ort


def open_session(path: Path, threads: int = 1) -> ort.InferenceSession:
    """Return a session on the CPU provider with `threads` threads inside operators and one between them."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Warnings about exporters' leftovers would drown the figures.
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feed_of(session: ort.InferenceSession, **arrays: Any) -> dict[str, Any]:
    """Return those of `arrays` that the session asks for."""
    return {entry.name: arrays[entry.name] for entry in session.get_inputs()}
