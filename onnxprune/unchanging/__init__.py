"""Which entries of every tensor never change, whatever the graph is given."""

from onnxprune.unchanging.entries import uniform
from onnxprune.unchanging.walk import Unchanging

__all__ = ["Unchanging", "uniform"]
