"""Prunable dimensions, computed by following the data through the operators."""
