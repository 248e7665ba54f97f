"""Other forms of a finished model: fixed shapes, and the ORT format with its list of operators."""

from onnxprune.deployment.fixed_shapes import fix_shapes
from onnxprune.deployment.forms import Deployed, Form, deploy, fixed_sizes

__all__ = ["Deployed", "Form", "deploy", "fix_shapes", "fixed_sizes"]
