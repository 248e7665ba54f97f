"""A user's own measure of a model: higher is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.data import LABELS, Samples
from onnxprune.errors import DataError, OptionError
from onnxprune.runtime import Session
from onnxprune.user_code import is_function, running

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Metric:
    """One number for a model on samples.

    Attributes:
        name: `labels` for the accuracy by the data's labels, or `module:function`. The function is given the outputs
            and the samples, two lists of dictionaries of arrays, one entry a sample; a sample holds its `labels` too
            where there are some.
    """

    name: str

    def __post_init__(self) -> None:
        if self.name != LABELS and not is_function(self.name):
            raise OptionError(f"A metric must be labels or module:function, got {self.name!r}.")

    def of(self, session: Session, samples: Samples) -> float:
        """The number.

        Raises:
            DataError: the samples have no labels, none that fit an output, or the user's function fails.
            ModelError: the model does not run on a sample.
        """
        outputs = [session.run(feeds) for feeds in samples.feeds]
        if self.name == LABELS:
            return _accuracy(outputs, samples)
        labels = [{}] * len(outputs) if samples.labels is None else [{LABELS: label} for label in samples.labels]
        given = [{**feeds, **label} for feeds, label in zip(samples.feeds, labels, strict=True)]
        with running(self.name, DataError, "Mend the metric.") as function:
            return float(function(outputs, given))


def _accuracy(outputs: Sequence[Mapping[str, Any]], samples: Samples) -> float:
    """Share of labels that are the largest of an output of classes, or that an output of integers names."""
    if samples.labels is None:
        raise DataError(f"{samples.source}: has no labels. Add an array named {LABELS!r}, or give module:function.")
    label = samples.labels[0]
    for name, value in outputs[0].items():
        if _answer(value, label) is not None:
            pairs = ((_answer(one[name], label), wanted) for one, wanted in zip(outputs, samples.labels, strict=True))
            return float(np.mean([np.mean(given == wanted) for given, wanted in pairs]))
    raise DataError(
        f"{samples.source}: labels {samples.labels.dtype} {list(label.shape)} a sample fit no output of classes. "
        "Give module:function."
    )


def _answer(value: Any, label: Array) -> Array | None:
    """The classes that an output names, in the shape of the labels; None where it is no output of classes."""
    if not isinstance(value, np.ndarray) or not np.issubdtype(label.dtype, np.integer):
        return None
    if value.dtype.kind == "f" and value.ndim and value.shape[-1] > 1 and value.size // value.shape[-1] == label.size:
        classes: Array = value.argmax(axis=-1)
        return classes.reshape(label.shape)
    if value.dtype.kind in "iu" and value.size == label.size:
        return value.reshape(label.shape)
    return None
