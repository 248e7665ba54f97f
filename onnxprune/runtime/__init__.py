"""The one door to onnxruntime sessions."""

from onnxprune.runtime.observing import observe, observe_shapes, with_outputs
from onnxprune.runtime.options import Level, first_line
from onnxprune.runtime.ports import Array, Feeds, Port
from onnxprune.runtime.profiling import operator_times
from onnxprune.runtime.sessions import (
    PieceSession,
    Session,
    open_session,
    operators,
    pieces_of,
    run_piece,
    takes_too_much,
)
from onnxprune.runtime.writing import save_optimized, save_ort, written

__all__ = [
    "Array",
    "Feeds",
    "Level",
    "PieceSession",
    "Port",
    "Session",
    "first_line",
    "observe",
    "observe_shapes",
    "open_session",
    "operator_times",
    "operators",
    "pieces_of",
    "run_piece",
    "save_optimized",
    "save_ort",
    "takes_too_much",
    "with_outputs",
    "written",
]
