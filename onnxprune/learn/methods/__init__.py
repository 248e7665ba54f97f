"""Training methods, one module each; nothing registers itself on import, and torch is imported when one starts."""

from __future__ import annotations

from onnxprune.learn.method import Method
from onnxprune.learn.methods.cap import Cap
from onnxprune.learn.methods.flop import Flop
from onnxprune.learn.methods.gradual_magnitude import GradualMagnitude
from onnxprune.learn.methods.head_gates import HeadGates
from onnxprune.learn.methods.mask_only import MaskOnly
from onnxprune.learn.methods.minitron import Minitron
from onnxprune.learn.methods.movement import Movement
from onnxprune.learn.methods.peer_distillation import PeerDistillation
from onnxprune.learn.methods.ziplm import ZipLM

_ALL: tuple[type[Method], ...] = (
    Cap,
    Flop,
    GradualMagnitude,
    HeadGates,
    MaskOnly,
    Minitron,
    Movement,
    PeerDistillation,
    ZipLM,
)
METHODS: dict[str, type[Method]] = {method.name: method for method in _ALL}

__all__ = ["METHODS"]
