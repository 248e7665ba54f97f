"""What the inputs of linears are like in a model that is being cut, beside what they were in the original.

Both models run on the same samples, one sample alive at a time; tokens that a mask pads are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_graphsurgeon as gs
from scipy.linalg import blas

from onnxprune.errors import DataError
from onnxprune.masks import kept_rows, mask_input
from onnxprune.model import Model
from onnxprune.observer import observer
from onnxprune.padding import Observe, cropped, may_crop
from onnxprune.runtime import Array, Feeds, Port
from onnxprune.solvers.unfold import unfold

Matrix = np.ndarray[Any, np.dtype[np.float64]]


# Of an image at most so many patches are looked at: neighbours say the same.
_PATCHES_A_SAMPLE = 512


@dataclass(frozen=True)
class Patches:
    """How a convolution cuts its input into patches.

    Attributes:
        groups: parts of the channels, each with sums of its own.
        same: `UPPER` or `LOWER`, where the convolution pads by itself for an output as large as its input; then `pads`
            are not read.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    groups: int = 1
    same: Literal["", "UPPER", "LOWER"] = ""

    def pads_of(self, space: Sequence[int]) -> tuple[int, ...]:
        """Zeros before each axis, then after each axis, of an image of this size."""
        if not self.same:
            return self.pads
        sizes = zip(space, self.kernel, self.strides, self.dilations, strict=True)
        whole = [max((-(-n // step) - 1) * step + (k - 1) * apart + 1 - n, 0) for n, k, step, apart in sizes]
        more, less = tuple(-(-n // 2) for n in whole), tuple(n // 2 for n in whole)
        return (*less, *more) if self.same == "UPPER" else (*more, *less)


def patches_of(node: gs.Node, kernel: Sequence[int]) -> Patches:
    """How a Conv cuts its input into patches of `kernel`."""
    axes, attrs = len(kernel), node.attrs
    same = str(attrs.get("auto_pad", "NOTSET")).removeprefix("SAME_")
    return Patches(
        kernel=tuple(kernel),
        strides=tuple(attrs.get("strides", (1,) * axes)),
        pads=(0,) * 2 * axes if same == "VALID" else tuple(attrs.get("pads", (0,) * 2 * axes)),
        dilations=tuple(attrs.get("dilations", (1,) * axes)),
        groups=int(attrs.get("group", 1)),
        same="UPPER" if same == "UPPER" else "LOWER" if same == "LOWER" else "",
    )


@dataclass(frozen=True)
class Source:
    """What a layer reads: a tensor [..., k], or an image [batch, channels, *space] in patches."""

    tensor: str
    patches: Patches | None = None


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Moments of one tensor's rows x [k] in the cut model, and y [k] in the original.

    Of a convolution in several groups each matrix has one more axis at the front, the groups', and k is of one group.

    Attributes:
        rows: how many were seen.
        gram: [k, k] Σ xᵀx.
        cross: [k, k] Σ xᵀy.
        mean: [k] E[x].
        reference_mean: [k] E[y].
        sequence_norm: [k], L2 over samples of the mean magnitude over a sample's rows (Minitron's aggregate).
    """

    rows: int
    gram: Matrix
    cross: Matrix
    mean: Array
    reference_mean: Array
    sequence_norm: Array


def compare_inputs(
    current: Model,
    original: Model,
    sources: Collection[Source],
    samples: Sequence[Feeds],
    *,
    mask: str | None = None,
) -> Mapping[Source, Inputs]:
    """Moments of what layers read, which both models compute with the same shape.

    Args:
        current: the model as far as it has been cut.
        original: what it was cut from; may be the same object, and then runs once.
        sources: what to look at.
        samples: calibration feeds.
        mask: the input [batch, sequence] that is 0 at padded tokens; None: found by its name, '' for none.

    Raises:
        DataError: there is no sample, or a mask leaves no row.
        OptionError: the model has no input named `mask`.
    """
    if not samples:
        raise DataError("calibration: at least one sample is needed, got none. Give --data.")
    names = {source.tensor for source in sources}
    ports = [Port(t.name, t.dtype, tuple(t.shape or ())) for t in current.graph.inputs]
    mask = mask_input(ports, mask)
    here = observer(current, names)
    there = here if current is original else observer(original, names)
    shorten = mask is not None and all(not source.patches for source in sources)
    shorten = shorten and all(may_crop(one, samples[0], mask or "", ports) for one in (here, there))
    sums: dict[Source, _Sums] = {}
    for at, given in enumerate(samples):
        feeds = (cropped(given, mask, ports) if mask and shorten else None) or given
        mine, theirs = _both(here, there, feeds)
        padding = np.asarray(feeds[mask]) if mask else None
        for source in sources:
            value, wanted = mine[source.tensor], theirs[source.tensor]
            rows = _rows(source, value, padding, at)
            reference = rows if wanted is value else _rows(source, wanted, padding, at)
            if source not in sums:
                sums[source] = _Sums(rows.shape[1], source.patches.groups if source.patches else 1)
            sums[source].add(rows, reference)
    return {source: total.finish(source.tensor) for source, total in sums.items()}


def _both(here: Observe, there: Observe, feeds: Feeds) -> tuple[Mapping[str, Array], Mapping[str, Array]]:
    """What both models compute, at the same time: the runtime lets go of Python while it works."""
    if there is here:
        mine = here(feeds)
        return mine, mine
    with ThreadPoolExecutor(1) as other:
        theirs = other.submit(there, feeds)
        return here(feeds), theirs.result()


def add_up(parts: Sequence[Inputs]) -> Inputs:
    """Moments of one weight's inputs over all its readers."""
    if len(parts) == 1:
        return parts[0]
    rows = sum(part.rows for part in parts)
    return Inputs(
        rows=rows,
        gram=np.sum([part.gram for part in parts], axis=0),
        cross=np.sum([part.cross for part in parts], axis=0),
        mean=np.sum([part.mean * (part.rows / rows) for part in parts], axis=0),
        reference_mean=np.sum([part.reference_mean * (part.rows / rows) for part in parts], axis=0),
        sequence_norm=np.sqrt(np.sum([np.square(part.sequence_norm) for part in parts], axis=0)),
    )


def _rows(source: Source, array: Array, padding: Array | None, sample: int) -> Array:
    if source.patches is not None:
        cut = source.patches
        pads = cut.pads_of(array.shape[2:])
        rows = unfold(array, cut.kernel, strides=cut.strides, pads=pads, dilations=cut.dilations)
        if len(rows) > _PATCHES_A_SAMPLE:
            # The same places in both models, others in each sample.
            rows = rows[np.random.default_rng(sample).choice(len(rows), _PATCHES_A_SAMPLE, replace=False)]
        return rows
    kept = kept_rows(array.shape, padding) if padding is not None else None
    taken: Array = array.reshape(-1, array.shape[-1]) if kept is None else array[kept]
    return taken


class _Sums:
    """Running sums in float64; one triangle of the symmetric one."""

    def __init__(self, width: int, groups: int = 1) -> None:
        self.rows = self.samples = 0
        self.groups, part = groups, width // groups
        shape = (part, part) if groups == 1 else (groups, part, part)
        self.gram = np.zeros(shape, order="F" if groups == 1 else "C")
        self.cross = np.zeros(shape, order="F" if groups == 1 else "C")
        self.total, self.reference = np.zeros(width), np.zeros(width)
        self.squares = np.zeros(width)

    def add(self, rows: Array, reference: Array) -> None:
        """Take in rows [n, k] of both models."""
        if not len(rows):
            return
        x = np.ascontiguousarray(rows, np.float64)
        y = x if reference is rows else np.ascontiguousarray(reference, np.float64)
        self.rows += len(x)
        self.samples += 1
        self.total += x.sum(axis=0)
        self.reference += y.sum(axis=0)
        self.squares += np.square(np.abs(x).mean(axis=0))
        if self.groups > 1:
            # [rows, channels] -> [groups, rows, channels of one]
            mine, theirs = (np.moveaxis(one.reshape(len(one), self.groups, -1), 1, 0) for one in (x, y))
            turned = mine.transpose(0, 2, 1)
            self.gram += turned @ mine
            self.cross += turned @ theirs
            return
        self.gram = blas.dsyrk(1.0, x.T, beta=1.0, c=self.gram, overwrite_c=1)
        self.cross = blas.dgemm(1.0, x.T, y.T, beta=1.0, c=self.cross, trans_b=1, overwrite_c=1)

    def finish(self, name: str) -> Inputs:
        """The moments."""
        if not self.rows:
            raise DataError(f"calibration: the mask leaves no token of {name!r}. Give samples with tokens.")
        gram = self.gram if self.groups > 1 else np.triu(self.gram) + np.triu(self.gram, 1).T
        return Inputs(
            rows=self.rows,
            gram=gram,
            cross=np.ascontiguousarray(self.cross),
            mean=self.total / self.rows,
            reference_mean=self.reference / self.rows,
            sequence_norm=np.sqrt(self.squares),
        )
