"""What must not fall below a floor besides what is asked of speed and size: fidelity, and the user's own metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from onnxprune.data import LABELS
from onnxprune.errors import DataError, OptionError
from onnxprune.judge import Broken, judge
from onnxprune.loss import class_axis, labelled_output
from onnxprune.model import Model
from onnxprune.runtime import Session, open_session
from onnxprune.search.goal import Goal, Metric
from onnxprune.subject import Subject
from onnxprune.user_code import is_function, running

Outputs = Sequence[Mapping[str, Any]]


@dataclass(eq=False)
class Floors:
    """The floors of one goal over one model, on the samples that never calibrate.

    Attributes:
        metric: the user's own, where the goal names one; a function may be given instead of its name.
    """

    subject: Subject
    goal: Goal
    metric: Metric | None = None

    def __post_init__(self) -> None:
        """Refuse a metric that is none before anything long begins."""
        if self.goal.metric is not None and self.metric is None:
            self.metric = self._accuracy() if self.goal.metric == LABELS else None
            if self.metric is None and not is_function(self.goal.metric):
                raise OptionError(f"--metric must be module:function or {LABELS}, got {self.goal.metric!r}.")
        if self.goal.metric is not None:
            _ = self.original

    @property
    def stated(self) -> bool:
        """Whether there is any."""
        return self.goal.fidelity is not None or self.goal.metric is not None

    @cached_property
    def original(self) -> float:
        """The metric of the original."""
        return self.measured(self.subject.session)

    def held(self, model: Model) -> bool:
        """Whether a model keeps all floors."""
        if self.goal.fidelity is not None:
            try:
                if not judge(model, self.subject.evidence, lossless=False).score >= self.goal.fidelity:
                    return False
            except Broken:
                return False
        return self.goal.metric is None or self.drop(model) <= (self.goal.max_drop or 0.0)

    def drop(self, model: Model) -> float:
        """By how much a model's metric is below the original's."""
        return self.original - self.measured(open_session(model))

    def measured(self, session: Session) -> float:
        """The metric of a loaded model."""
        samples = [dict(feeds) for feeds in self.subject.samples.held_out]
        outputs = [session.run(feeds) for feeds in samples]
        labels = self.subject.samples.held_out_labels
        if labels is not None:
            samples = [{**feeds, LABELS: label} for feeds, label in zip(samples, labels, strict=True)]
        if self.metric is not None:
            value: Any = self.metric(outputs, samples)
        else:
            name = self.goal.metric or ""
            with running(name, OptionError, "Mend it.") as function:
                value = function(outputs, samples)
        return _number(self.goal.metric or "metric", value)

    def _accuracy(self) -> Metric:
        """The share of labels that are the likeliest class."""
        samples = self.subject.samples
        labels = samples.held_out_labels
        if labels is None:
            raise DataError(
                f"--metric {LABELS}: {samples.source} must hold labels, it has none. Add an array 'labels'."
            )
        found = labelled_output(self.subject.session, samples.held_out[0], labels[0])
        if found is None:
            raise DataError(
                f"--metric {LABELS}: labels must be class numbers that fit an output of classes, got {labels.dtype} "
                f"{list(labels.shape[1:])} a sample. Give a metric of your own."
            )
        name, axis = found.name, class_axis(found)

        def accuracy(outputs: Outputs, given: Outputs) -> float:
            right, count = 0, 0
            for output, sample in zip(outputs, given, strict=True):
                likeliest = np.argmax(output[name], axis=axis).ravel()
                wanted = np.asarray(sample[LABELS]).ravel()
                # Negative labels mark places without one.
                kept = wanted >= 0
                right += int((likeliest[kept] == wanted[kept]).sum())
                count += int(kept.sum())
            return right / count if count else float("nan")

        return accuracy


def _number(name: str, value: Any) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = float("nan")
    if not np.isfinite(found):
        raise OptionError(f"--metric {name}: must give a finite number, higher is better, got {value!r:.60}. Mend it.")
    return found
