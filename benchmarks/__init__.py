"""Measurements of onnxprune on real models: what it gains, what it costs, and what a user would pick instead."""
