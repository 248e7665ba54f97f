"""The one place that asks for torch."""

from __future__ import annotations

from typing import Any

from onnxprune.errors import MissingDependencyError


def torch_for(what: str) -> Any:
    """The package torch.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(f"{what} needs torch. Install it: pip install 'onnxprune[torch]'.") from error
    return torch
