"""The tree of errors: what is the user's fault derives from OnnxPruneError and is told in one line."""

from __future__ import annotations


class OnnxPruneError(Exception):
    """The input is at fault. The message says who, what must hold, what came and what to do."""


class ModelError(OnnxPruneError):
    """A model file cannot be read, is invalid, or does not run."""


class DataError(OnnxPruneError):
    """Sample inputs do not fit the model."""


class OptionError(OnnxPruneError):
    """An option is unknown or out of its range."""


class PlanError(OnnxPruneError):
    """A plan cannot be read or does not belong to the model."""


class OutputError(OnnxPruneError):
    """A result cannot be written."""


class MissingDependencyError(OnnxPruneError):
    """An optional package is needed for what was asked."""


class TargetError(OnnxPruneError):
    """A target is not set up, declines a model, or its process failed.

    Attributes:
        model: which of the models asked for is at fault; None where none of them is.
    """

    def __init__(self, message: str, *, model: int | None = None) -> None:
        super().__init__(message)
        self.model = model


class Declined(Exception):  # noqa: N818 - not an error: the honest answer of an edit that cannot be proved
    """An edit cannot be proved at its site; the message is the reason that the report prints."""
