"""How sessions are set up, and what their errors say."""

from __future__ import annotations

import re
from typing import Literal

import onnxruntime as ort

Level = Literal["none", "default"]

# Errors reach the user as our own one line; onnxruntime's log would print them a second time.
FATAL = 4
LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "default": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


def session_options(level: Level, threads: int) -> ort.SessionOptions:
    """Options of a session on so many threads, with optimizations at their default (all) or off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = FATAL
    return options


def first_line(error: Exception) -> str:
    """The line of a runtime's error that says what is wrong, without its own source positions."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    # "[ONNXRuntimeError] : 1 : FAIL : what" and "/path/file.cc:12 function what" carry noise before the message.
    text = text.rpartition("[ONNXRuntimeError] : ")[2]
    text = text.split(" : ", 2)[-1]
    # Our temporary files have names that mean nothing to the reader.
    return re.sub(r"^Load model from .*? failed: ?", "", text)[:300]
