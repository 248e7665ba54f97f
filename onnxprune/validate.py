"""Compare two models: figures per output and a verdict, and the first tensor where they part."""

from onnxprune.fidelity import Fidelity, Verdict, compare
from onnxprune.figures import OutputFigures

__all__ = ["Fidelity", "OutputFigures", "Verdict", "compare"]
