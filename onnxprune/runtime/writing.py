"""Models as files that a runtime reads: as they are, as it runs them, and in its own format."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import onnxruntime as ort

from onnxprune.errors import ModelError
from onnxprune.files import scratch
from onnxprune.memory import short_of_memory
from onnxprune.model import Model, save
from onnxprune.runtime.options import FATAL, LEVELS, first_line, session_options


class written:  # noqa: N801 - reads as a phrase: `with written(model) as path`
    """A model as a temporary file, for those who need a path."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def __enter__(self) -> Path:
        self._held = ExitStack()
        path = self._held.enter_context(scratch()) / "model.onnx"
        try:
            # Weights beside the file are mapped by who reads it, and not read at all by a checker.
            save(self._model, path, external=True if short_of_memory() else None)
        except BaseException:
            self._held.close()
            raise
        return path

    def __exit__(self, *_: object) -> None:
        self._held.close()


def save_ort(source: Path, destination: Path) -> None:
    """Write a model in the ORT format, its optimizations carried out but for those that only one kind of CPU has.

    Raises:
        ModelError: onnxruntime cannot convert it.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = LEVELS["default"]
    options.log_severity_level = FATAL
    options.optimized_model_filepath = str(destination)
    options.add_session_config_entry("session.save_model_format", "ORT")
    try:
        ort.InferenceSession(
            str(source), options, providers=["CPUExecutionProvider"], disabled_optimizers=["NchwcTransformer"]
        )
    except Exception as error:  # onnxruntime's errors share no base class
        raise ModelError(f"{destination.name}: onnxruntime cannot write the ORT format: {first_line(error)}") from error


def save_optimized(source: Path, destination: Path) -> None:
    """Write the graph that a session runs, its weights in a second file beside it.

    Raises:
        ModelError: onnxruntime refuses the model.
    """
    options = session_options("default", 1)
    options.optimized_model_filepath = str(destination)
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_file_name", f"{destination.name}.data"
    )
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    try:
        ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class
        raise ModelError(f"{source.name}: onnxruntime refuses the model: {first_line(error)}") from error
