"""What a model loses on calibration samples: of its next tokens, of the labels, or of the original's outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from onnxprune.data import LazyFeeds, Samples
from onnxprune.errors import DataError, ModelError, OptionError
from onnxprune.fidelity import compare
from onnxprune.masks import find_mask
from onnxprune.model import Model
from onnxprune.padding import cropped, may_crop
from onnxprune.roles import padding_masks, state_outputs, valid_positions
from onnxprune.runtime import Array, Feeds, Port, Session, open_session
from onnxprune.signature import read_signature

Kind = Literal["next-token", "labels", "divergence"]
KINDS: tuple[Kind, ...] = ("divergence", "labels", "next-token")

# A loss ranks edits: a few dozen samples tell them apart, and every edit runs them all.
MOST_SAMPLES = 64
# Outputs of the original are kept up to this size; beyond it the original runs again.
_KEPT_BYTES = 2**28
# Classes of a softmax add up to 1 within its rounding.
_SUM_TOLERANCE = 1e-3
# A later token that moves earlier logits by more than this share of the largest is seen by them.
_SEEN = 1e-4


@dataclass(frozen=True, eq=False)
class Loss:
    """A number for each model, the lower the better; infinite where a model does not run or gives no finite outputs.

    Attributes:
        kind: which loss.
        what: one phrase for reports.
        feeds: the samples that it is measured on.
        output: whose labels or next tokens are measured; None for divergence.
        tokens: the input whose next tokens are measured.
        labels: [samples, …] of `feeds`.
    """

    kind: Kind
    what: str
    feeds: Sequence[Feeds]
    _measure: Callable[[Session], float]
    output: Port | None = None
    tokens: Port | None = None
    labels: Array | None = None

    def __call__(self, model: Model) -> float:
        """The loss of a model with the original's inputs and outputs."""
        try:
            value = self._measure(open_session(model))
        except ModelError:
            return math.inf
        return value if math.isfinite(value) else math.inf


def check_loss(asked: str | None) -> None:
    """Reject what is no loss, before anything runs."""
    if asked is not None and asked not in KINDS:
        raise OptionError(f"--loss must be one of {', '.join(KINDS)}, got {asked!r}.")


def few(feeds: Sequence[Feeds], most: int = MOST_SAMPLES) -> Sequence[Feeds]:
    """At most so many samples, spread evenly: what scores by loss or cosine look at."""
    return LazyFeeds(feeds.__getitem__, spread(len(feeds), most))


def spread(count: int, most: int = MOST_SAMPLES) -> list[int]:
    """Which of `count` samples `few` takes."""
    return [at * count // min(count, most) for at in range(min(count, most))]


def choose_loss(model: Model, session: Session, samples: Samples, asked: str | None) -> Loss:
    """The loss that was asked for; without a wish, that of the labels where they fit an output, else divergence.

    Args:
        model: the original.
        session: of the original.
        samples: of which at most 64 that calibrate are used, spread evenly.
        asked: one of `KINDS`; None to choose.

    Raises:
        DataError: the samples or the outputs do not serve what was asked for.
    """
    feeds = few(samples.calibration)
    labels = samples.calibration_labels
    labels = None if labels is None else labels[spread(len(labels))]
    if asked == "next-token":
        return _next_token(model, session, feeds)
    if asked == "labels" and labels is None:
        raise DataError(f"--loss labels: {samples.source} must hold labels, it has none. Add an array named 'labels'.")
    if labels is not None and asked != "divergence":
        port = labelled_output(session, feeds[0], labels[0])
        if port is not None:
            return _labels(session, feeds, labels, port)
        if asked:
            raise DataError(
                f"--loss labels: labels must be class numbers that fit an output of classes, got {labels.dtype} "
                f"{list(labels.shape[1:])} a sample. Choose --loss divergence."
            )
    return _divergence(session, feeds)


def _divergence(session: Session, feeds: Sequence[Feeds]) -> Loss:
    reference = _Reference(session, feeds)

    def measure(candidate: Session) -> float:
        found = compare(reference.outputs(), candidate, reference.feeds, inputs=session.inputs, outputs=session.outputs)
        return 1 - found.score

    return Loss("divergence", "1 - share of the original outputs' variance that survives", feeds, measure)


@dataclass
class _Reference:
    """The original's outputs, computed when first asked for and kept where they are small."""

    session: Session
    given: Sequence[Feeds]

    @cached_property
    def feeds(self) -> Sequence[Feeds]:
        """The samples without their padding, where the outputs do not depend on it."""
        ports = self.session.inputs
        mask = find_mask(ports)
        if mask is None or not may_crop(self.session.run, self.given[0], mask, ports):
            return self.given
        return [cropped(feeds, mask, ports) or feeds for feeds in self.given]

    @cached_property
    def kept(self) -> list[dict[str, Any]] | None:
        held, size = [], 0
        for feeds in self.feeds:
            held.append(self.session.run(feeds))
            size += sum(value.nbytes for value in held[-1].values() if isinstance(value, np.ndarray))
            if size > _KEPT_BYTES:
                return None
        return held

    def outputs(self) -> Iterator[dict[str, Any]]:
        """One sample's after the other."""
        yield from self.kept if self.kept is not None else map(self.session.run, self.feeds)


def _labels(session: Session, feeds: Sequence[Feeds], labels: Array, port: Port) -> Loss:
    masks = padding_masks(session.inputs)
    probabilities = _are_probabilities(session.run(feeds[0])[port.name], class_axis(port))

    def measure(candidate: Session) -> float:
        total, count = 0.0, 0
        for given, wanted in zip(feeds, labels, strict=True):
            output = candidate.run(given)[port.name]
            axis = class_axis(port)
            log_p = _log_probabilities(np.moveaxis(output, axis, -1), probabilities=probabilities)
            target = np.asarray(wanted).reshape(log_p.shape[:-1])
            if target.max() >= log_p.shape[-1]:
                raise DataError(
                    f"--loss labels: output {port.name!r} has classes 0 to {log_p.shape[-1] - 1}, got label "
                    f"{target.max()}. Mend the labels or choose --loss divergence."
                )
            # Negative labels mark places without one, as -100 does for torch.
            kept = target >= 0
            valid = valid_positions(masks, given, port, output.shape) if target.size > len(target) else None
            if valid is not None:
                kept = kept & np.broadcast_to(np.moveaxis(valid, axis, -1)[..., 0], kept.shape)
            total += _negative_log_likelihood(log_p, target, kept)
            count += int(kept.sum())
        return total / count if count else math.nan

    what = f"cross-entropy of the labels by output {port.name!r}, in nats"
    return Loss("labels", what, feeds, measure, port, labels=labels)


def labelled_output(session: Session, feeds: Feeds, label: Array) -> Port | None:
    """The first output whose classes a sample's labels can choose among."""
    if label.dtype.kind not in "iu":
        return None
    states = state_outputs(session.inputs, session.outputs)
    outputs = session.run(feeds)
    for port in session.outputs:
        value = outputs[port.name]
        if port.name in states or not isinstance(value, np.ndarray) or value.dtype.kind != "f" or value.ndim < 2:
            continue
        classes = value.shape[class_axis(port)]
        sizes = tuple(size for size in np.moveaxis(value, class_axis(port), -1).shape[:-1] if size > 1)
        if classes > 1 and sizes == tuple(size for size in label.shape if size > 1):
            return port
    return None


def class_axis(port: Port) -> int:
    """Where an output's classes stand."""
    # Classes stand last, but before the height and width of an image.
    return 1 if len(port.shape) > 3 else -1


def _next_token(model: Model, session: Session, feeds: Sequence[Feeds]) -> Loss:
    tokens, logits = _language_ports(model, session, feeds[0])
    masks = padding_masks(session.inputs)

    def measure(candidate: Session) -> float:
        total, count = 0.0, 0
        for given in feeds:
            output, ids = candidate.run(given)[logits.name], np.asarray(given[tokens.name])
            kept = np.ones(ids.shape, np.bool_)
            valid = valid_positions(masks, given, logits, output.shape)
            if valid is not None:
                kept = np.broadcast_to(valid[..., 0], ids.shape)
            # A token counts where it is real and so is the one that it follows.
            kept = kept[:, 1:] & kept[:, :-1]
            total += _negative_log_likelihood(_log_probabilities(output[:, :-1]), ids[:, 1:], kept)
            count += int(kept.sum())
        return total / count if count else math.nan

    what = f"cross-entropy of the next token of {tokens.name!r} by output {logits.name!r}, in nats"
    return Loss("next-token", what, feeds, measure, logits, tokens)


def _language_ports(model: Model, session: Session, feeds: Feeds) -> tuple[Port, Port]:
    """The tokens [batch, sequence] and the logits [batch, sequence, vocabulary] of which each sees no later token."""
    roles = {one.name: one.role for one in read_signature(model, session).inputs}
    tokens = [port for port in session.inputs if roles[port.name] == "token" and np.ndim(feeds[port.name]) == 2]
    outputs = session.run(feeds)
    pairs = [
        (given, port)
        for given in tokens
        for port in session.outputs
        if isinstance(outputs[port.name], np.ndarray)
        and outputs[port.name].dtype.kind == "f"
        and outputs[port.name].ndim == 3
        and outputs[port.name].shape[:2] == feeds[given.name].shape
        and outputs[port.name].shape[2] > int(np.max(feeds[given.name], initial=0)) > 0
    ]
    if not pairs:
        raise DataError(
            "--loss next-token: the model must read tokens [batch, sequence] and give out logits [batch, sequence, "
            f"vocabulary], got {'; '.join(map(str, session.outputs))}. Choose --loss divergence."
        )
    given, port = pairs[0]
    ids = np.asarray(feeds[given.name])
    if ids.shape[1] < 2:
        raise DataError("--loss next-token: samples must hold at least two tokens, got one. Give longer ones.")
    valid = valid_positions(padding_masks(session.inputs), feeds, port, outputs[port.name].shape)
    # Padding tells nothing: the later half of the real tokens changes.
    real = ids.shape[1] if valid is None else int(valid[..., 0].sum(axis=1).max())
    half = max(1, real // 2)
    changed = ids.copy()
    changed[:, half:] = np.where(ids[:, half:] > 0, ids[:, half:] - 1, 1)
    before = outputs[port.name][:, :half].astype(np.float64)
    after = session.run({**feeds, given.name: changed})[port.name][:, :half]
    if np.abs(after - before).max() > _SEEN * np.abs(before).max():
        raise DataError(
            f"--loss next-token: output {port.name!r} must not depend on later tokens, but it does, as a masked "
            "language model's. Choose --loss divergence."
        )
    return given, port


def _negative_log_likelihood(log_p: Array, target: Array, kept: Array) -> float:
    picked = np.take_along_axis(log_p, np.maximum(target, 0)[..., None].astype(np.int64), axis=-1)[..., 0]
    return float(-picked[kept].sum())


def _are_probabilities(output: Array, axis: int) -> bool:
    return bool(output.min() >= 0 and np.abs(output.sum(axis=axis, dtype=np.float64) - 1).max() < _SUM_TOLERANCE)


def _log_probabilities(output: Array, *, probabilities: bool = False) -> Array:
    """[..., classes] logarithms of the softmax of logits, or of what is a softmax already."""
    values = output.astype(np.float64)
    if probabilities:
        logarithms: Array = np.log(np.maximum(values, np.finfo(np.float64).tiny))
        return logarithms
    values -= values.max(axis=-1, keepdims=True)
    shifted: Array = values - np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return shifted
