"""Training methods, one module each; nothing registers itself on import, and torch is imported when one starts."""

from __future__ import annotations

from onnxprune.learn.method import Method
from onnxprune.learn.methods.cap import Cap
from onnxprune.learn.methods.gradual_magnitude import GradualMagnitude
from onnxprune.learn.methods.mask_only import MaskOnly
from onnxprune.learn.methods.movement import Movement

METHODS: dict[str, type[Method]] = {method.name: method for method in (Cap, GradualMagnitude, MaskOnly, Movement)}

__all__ = ["METHODS"]
