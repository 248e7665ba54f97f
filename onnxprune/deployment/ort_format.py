"""The ORT format: what a minimal build of onnxruntime loads, and the list of operators that such a build must have.

The file is made by the CPU provider with its optimizations carried out, but for those that only x86-64 has (NCHWc), so
that it runs on any CPU. Providers that compile parts of a graph should get the .onnx file.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

from onnxprune.errors import MissingDependencyError, ModelError
from onnxprune.files import atomic

SUFFIX = ".ort"
OPERATORS_SUFFIX = ".required_operators.config"


def place_ort(made: Path, destination: Path) -> Path:
    """Put a converted model to its place and, beside it, the operators that a reduced build needs.

    Args:
        made: the file in the ORT format.
        destination: a file name that ends in .ort.

    Returns:
        The list of operators, for `--include_ops_by_config` of onnxruntime's build.

    Raises:
        MissingDependencyError: the package flatbuffers, which onnxruntime's tools read the format with, is missing.
        OutputError: the place cannot be written.
    """
    config = destination.with_name(f"{destination.stem}{OPERATORS_SUFFIX}")
    listed = _operators(made, destination.name)
    with atomic(destination) as file, atomic(config) as config_file:
        file.write(made.read_bytes())
        config_file.write(listed.encode())
    return config


def _operators(path: Path, name: str) -> str:
    """Onnxruntime's own list, with types."""
    # Its tools log what we print ourselves.
    logging.getLogger("ort_format_model.utils").setLevel(logging.ERROR)
    try:
        from onnxruntime.tools.ort_format_model import create_config_from_models
    except ImportError as error:
        raise MissingDependencyError(
            f"The list of required operators needs {error.name}. Install it: pip install flatbuffers."
        ) from error
    config = path.with_suffix(".config")
    try:
        with warnings.catch_warnings():
            # Its reader leaves the file to the garbage collector.
            warnings.simplefilter("ignore", ResourceWarning)
            create_config_from_models([path], config, enable_type_reduction=True)
    except Exception as error:  # the tools raise whatever they stumble over
        raise ModelError(f"{name}: onnxruntime's tools cannot list its operators: {error}") from error
    rows = [line for line in config.read_text().splitlines() if not line.startswith("#")]
    return "\n".join(["# Generated from model/s:", f"# - {name}", *rows, ""])
