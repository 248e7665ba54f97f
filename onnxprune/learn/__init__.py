"""Learning: the ONNX graph as a torch module, gradients, recovery. torch is imported here alone, and only when used."""

from __future__ import annotations

from importlib.util import find_spec

from onnxprune.errors import MissingDependencyError


def require_torch(what: str) -> None:
    """Say in one line how to install torch where it is missing; every entry into this package asks first.

    Raises:
        MissingDependencyError: torch is not installed.
    """
    if find_spec("torch") is None:
        raise MissingDependencyError(
            f"{what} needs torch, which is not installed. Run: pip install 'onnxprune[torch]'."
        )


__all__ = ["require_torch"]
