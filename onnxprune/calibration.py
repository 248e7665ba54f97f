"""What sample inputs say about a model's tensors: streamed, one sample alive, summed in float64.

The runtime computes the wanted tensors, and nothing behind them, at its default optimization level: fused kernels round
differently by about 1e-6 of a value, where the statistics themselves vary with the choice of samples by far more, and
they are several times faster.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.linalg import blas

from onnxprune.errors import DataError, OutputError
from onnxprune.masks import kept_rows, mask_input
from onnxprune.model import Model
from onnxprune.observer import groups, observer, shapes_of, unobservable
from onnxprune.progress import Progress, Turn
from onnxprune.runtime import Array, Feeds, Port
from onnxprune.solvers.histogram import Histogram, histogram_of, merged

Matrix = np.ndarray[Any, np.dtype[np.float64]]

# Accumulators and activations that may be alive at once; the rest is collected in further passes over the samples.
MEMORY_BYTES = 256 << 20
# Of a large tensor so many values of each sample go into its histogram: neighbours say the same.
_VALUES_A_SAMPLE = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Statistics that are wanted, by tensor name. `|` joins what several passes want.

    Attributes:
        ranges: least and largest value.
        columns: per element of the last axis: mean, L2 norm, mean and largest magnitude.
        grams: the same, and the last axis' second moment XᵀX.
        tokens: how often each whole number occurs.
        histograms: how often values of each size occur.
        channels: per element of axis 1, the mean.
        spans: least and largest value in each sample.
    """

    ranges: frozenset[str] = frozenset()
    columns: frozenset[str] = frozenset()
    grams: frozenset[str] = frozenset()
    tokens: frozenset[str] = frozenset()
    histograms: frozenset[str] = frozenset()
    channels: frozenset[str] = frozenset()
    spans: frozenset[str] = frozenset()

    def __or__(self, other: Needs) -> Needs:
        return Needs(
            ranges=self.ranges | other.ranges,
            columns=self.columns | other.columns,
            grams=self.grams | other.grams,
            tokens=self.tokens | other.tokens,
            histograms=self.histograms | other.histograms,
            channels=self.channels | other.channels,
            spans=self.spans | other.spans,
        )

    @property
    def tensors(self) -> frozenset[str]:
        """Every tensor that anything is wanted of."""
        return self.ranges | self.columns | self.grams | self.tokens | self.histograms | self.channels | self.spans


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the rows x [k] of one tensor are like; its axes but the last are rows, padded tokens left out.

    Attributes:
        rows: how many were seen.
        mean: [k] E[x].
        norm: [k] sqrt(Σ x²).
        mean_abs: [k] E|x|.
        max_abs: [k] max |x|.
        gram: [k, k] Σ xᵀx; None where it was not asked for. May be mapped from a temporary file.
    """

    rows: int
    mean: Matrix
    norm: Matrix
    mean_abs: Matrix
    max_abs: Matrix
    gram: Matrix | None = None


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What was collected, by tensor name.

    Attributes:
        ranges: (least, largest) value over all samples, padded tokens included: they are computed with, too.
        columns: of every tensor of `Needs.columns` and `Needs.grams`.
        tokens: (numbers, ascending; how often each was seen), padded places left out.
        histograms: of finite values, padded tokens included; of a large tensor, of some of each sample's values.
        channels: [channels] the mean over samples and all axes but axis 1.
        spans: [samples, 2] the least and the largest value in each sample that holds any, padded tokens included.
        missing: why a wanted tensor has none, as the report may print it.
        samples: how many were run.
        mask: the input that told padded tokens.
    """

    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    columns: Mapping[str, Columns] = field(default_factory=dict)
    tokens: Mapping[str, tuple[Array, Array]] = field(default_factory=dict)
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    channels: Mapping[str, Matrix] = field(default_factory=dict)
    spans: Mapping[str, Matrix] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    samples: int = 0
    mask: str | None = None


def collect(
    model: Model,
    needs: Needs,
    samples: Iterable[Feeds],
    *,
    mask: str | None = None,
    memory_bytes: int = MEMORY_BYTES,
    progress: Progress = lambda _: None,
) -> Statistics:
    """Statistics of tensors over samples.

    Args:
        model: as it now is.
        needs: inputs, outputs and intermediate tensors of the top graph.
        samples: run one after the other, once for every pass that memory asks for; an iterator is kept in a list.
        mask: the input [batch, sequence] that is 0 at padded tokens; None: found by its name, '' for none.
        memory_bytes: accumulators and activations that may be alive at once. Tensors are spread over several passes
            to keep to it, and finished Gram matrices then lie in temporary files; what is too large alone is `missing`.
        progress: told each sample as its turn comes.

    Raises:
        DataError: there is no sample.
        ModelError: the model does not run.
        OptionError: the model has no input named `mask`.
    """
    feeds = samples if isinstance(samples, Sequence) else list(samples)
    if not feeds:
        raise DataError("calibration: at least one sample is needed, got none. Give --data.")
    mask = mask_input([Port(t.name, t.dtype, tuple(t.shape or ())) for t in model.graph.inputs], mask)
    missing = unobservable(model, needs.tensors)
    shapes = shapes_of(model, sorted(needs.tensors - missing.keys()), feeds[0])
    missing |= {name: why for name, shape in shapes.items() if (why := _unsuited(name, shape, needs, memory_bytes))}
    parts = groups({name: _bytes(name, shapes[name], needs) for name in shapes if name not in missing}, memory_bytes)
    columns: dict[str, Columns] = {}
    tokens: dict[str, Counter[int]] = {name: Counter() for name in needs.tokens - missing.keys()}
    histograms: dict[str, Histogram] = {}
    channels: dict[str, list[Matrix]] = {}
    spans: dict[str, list[tuple[float, float]]] = {}
    for turn, part in enumerate(parts):
        observe = observer(model, part)
        sums = {name: _Sums(gram=name in needs.grams) for name in part if name in needs.grams | needs.columns}
        for at, feed in enumerate(feeds, 1 + turn * len(feeds)):
            progress(Turn("collect statistics", at, len(parts) * len(feeds), kind="statistics"))
            for name, value in observe(feed).items():
                if name in needs.ranges | needs.spans and value.size:
                    spans.setdefault(name, []).append((float(value.min()), float(value.max())))
                if name in needs.histograms and (seen := histogram_of(_some(value))) is not None:
                    histograms[name] = merged(histograms.get(name), seen) or seen
                if name in needs.channels and value.size:
                    axes = tuple(axis for axis in range(value.ndim) if axis != 1)
                    channels.setdefault(name, []).append(value.mean(axis=axes, dtype=np.float64))
                if name in tokens:
                    kept = kept_rows((*value.shape, 1), feed[mask]) if mask else None
                    ids, times = np.unique(value if kept is None else value[kept], return_counts=True)
                    tokens[name].update(dict(zip(ids.tolist(), times.tolist(), strict=True)))
                if name in sums:
                    kept = kept_rows(value.shape, feed[mask]) if mask else None
                    sums[name].add(value.reshape(-1, value.shape[-1]) if kept is None else value[kept])
        columns |= {name: done.finish(spill=len(parts) > 1) for name, done in sums.items()}
    counted = {name: _sorted(counts) for name, counts in tokens.items()}
    ranges = {name: _outermost(spans[name]) for name in needs.ranges & spans.keys()}
    return Statistics(
        ranges=ranges,
        columns=columns,
        tokens=counted,
        histograms={name: _with_ends(held, ranges.get(name)) for name, held in histograms.items()},
        channels={name: np.mean(means, axis=0) for name, means in channels.items()},
        spans={name: np.array(ends, np.float64) for name, ends in spans.items() if name in needs.spans},
        missing=missing,
        samples=len(feeds),
        mask=mask,
    )


def _outermost(spans: Sequence[tuple[float, float]]) -> tuple[float, float]:
    lows, highs = zip(*spans, strict=True)
    return float(np.fmin.reduce(lows)), float(np.fmax.reduce(highs))


def _some(value: Array) -> Array:
    """At most so many of a tensor's values, at places that do not line up with its axes."""
    flat = value.ravel()
    if flat.size <= _VALUES_A_SAMPLE:
        return flat
    return flat[np.random.default_rng(flat.size).integers(0, flat.size, _VALUES_A_SAMPLE)]


def _with_ends(histogram: Histogram, ends: tuple[float, float] | None) -> Histogram:
    """With the true ends, where some of the values were not looked at."""
    return histogram if ends is None else replace(histogram, low=ends[0], high=ends[1])


def _sorted(counts: Counter[int]) -> tuple[Array, Array]:
    numbers = sorted(counts)
    return np.array(numbers, np.int64), np.array([counts[number] for number in numbers], np.int64)


class _Sums:
    """Running sums over the rows of one tensor."""

    def __init__(self, *, gram: bool) -> None:
        self._wants_gram = gram
        self._rows = 0
        self._gram: Matrix | None = None

    def add(self, rows: Array) -> None:
        """Take in `rows` [n, k]."""
        rows = np.ascontiguousarray(rows, dtype=np.float64)
        if not self._rows and self._gram is None:
            width = rows.shape[1]
            self._sum, self._square, self._abs, self._max = (np.zeros(width) for _ in range(4))
            if self._wants_gram:
                self._gram = np.zeros((width, width), order="F")
        if not len(rows):
            return
        self._rows += len(rows)
        magnitude = np.abs(rows)
        self._sum += rows.sum(axis=0)
        self._square += np.einsum("nk,nk->k", rows, rows)
        self._abs += magnitude.sum(axis=0)
        np.maximum(self._max, magnitude.max(axis=0), out=self._max)
        if self._gram is not None:
            # One triangle, added in place: half the work of a product, and no second matrix.
            self._gram = blas.dsyrk(1.0, rows.T, beta=1.0, c=self._gram, overwrite_c=1)

    def finish(self, *, spill: bool) -> Columns:
        """The statistics; the sums are used up."""
        gram = self._gram
        if gram is not None:
            # Row by row, since a whole transposed copy would double the peak.
            for row in range(1, len(gram)):
                gram[row, :row] = gram[:row, row]
            gram = _spilled(gram) if spill else gram
        count = max(self._rows, 1)
        return Columns(
            rows=self._rows,
            mean=self._sum / count,
            norm=np.sqrt(self._square),
            mean_abs=self._abs / count,
            max_abs=self._max,
            gram=gram,
        )


def _spilled(gram: Matrix) -> Matrix:
    """The matrix in a temporary file that goes with it."""
    try:
        with tempfile.TemporaryFile(prefix="onnxprune-") as file:
            file.write(gram.T.data)
            file.flush()
            # Symmetric, so that its order does not matter.
            return np.memmap(file, dtype=np.float64, mode="r", shape=gram.shape)
    except OSError as error:
        folder = tempfile.gettempdir()
        raise OutputError(
            f"{folder}: statistics cannot be written: {error.strerror or error}. Set TMPDIR to another folder."
        ) from error


def _unsuited(name: str, shape: tuple[int, ...], needs: Needs, memory_bytes: int) -> str | None:
    if name in needs.columns | needs.grams and not shape:
        return "it is a scalar"
    if name in needs.channels and len(shape) < 2:
        return "it has no axis 1"
    if name in needs.grams and 8 * shape[-1] ** 2 > memory_bytes:
        return f"its second moment takes {8 * shape[-1] ** 2} bytes, more than the {memory_bytes} allowed"
    return None


def _bytes(name: str, shape: tuple[int, ...], needs: Needs) -> int:
    """What a tensor costs while it is collected: float32, and of one at a time a float64 copy and its magnitudes."""
    return 4 * math.prod(shape) + (8 * shape[-1] ** 2 if name in needs.grams else 0)
