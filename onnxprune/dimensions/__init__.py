"""Dimensions: sets of tensor axes that must be cut together, found by following the data."""

from onnxprune.dimensions.result import Consumer, Dimension, Dimensions, Member, Pin, Producer
from onnxprune.dimensions.trace import trace

__all__ = ["Consumer", "Dimension", "Dimensions", "Member", "Pin", "Producer", "trace"]
