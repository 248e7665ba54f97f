"""Compare two models: figures per output and a verdict, and the first tensor where they part."""

from onnxprune.divergence import Divergence, first_divergence
from onnxprune.fidelity import Fidelity, Source, Verdict, compare
from onnxprune.figures import OutputFigures

__all__ = ["Divergence", "Fidelity", "OutputFigures", "Source", "Verdict", "compare", "first_divergence"]
