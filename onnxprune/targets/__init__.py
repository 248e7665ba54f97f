"""Runtimes that can run a model and time it."""
