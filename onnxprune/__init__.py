"""Compress exported ONNX models, with proof."""
