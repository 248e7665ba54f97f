"""Numbers that are none, and numbers that come near the end of their type."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxprune.checking.case import Case
from onnxprune.checking.finding import Spot
from onnxprune.checking.rule import rule
from onnxprune.runtime import observe
from onnxprune.weights import find_weights

_HALF_LIMIT = 65504.0
# Other inputs reach further than the few that are tried.
_HEADROOM = 4
_SHOWN = 5
_SUBNORMAL_SHARE = 0.01


@rule(
    "nan-weight",
    "error",
    needs="graph",
    do="Export from a sound checkpoint: training has diverged, or a division by zero was stored.",
)
def nan_weight(case: Case) -> Iterator[Spot]:
    """A stored tensor holds NaN."""
    for name, array in case.floats:
        count = int(np.isnan(array).sum()) if array.size and np.isnan(np.min(array)) else 0
        if count:
            yield Spot(f"initializer {name!r}", f"{count} of {array.size} numbers are NaN")


@rule(
    "infinite-weight",
    "error",
    needs="graph",
    do="Export from a sound checkpoint; a float16 conversion that overflowed leaves infinities, too.",
)
def infinite_weight(case: Case) -> Iterator[Spot]:
    """A weight of a product, convolution or embedding holds infinities; masks may."""
    weights = {weight.constant.name for weight in find_weights(case.model.graph)}
    for name, array in case.floats:
        if name in weights and array.size and not np.isfinite(np.max(np.abs(array))):
            count = int(np.isinf(array).sum())
            if count:
                yield Spot(f"weight {name!r}", f"{count} of {array.size} numbers are infinite")


@rule("float16-overflow", "warning", needs="run", do="Keep these operators in float32 when converting to float16.")
def float16_overflow(case: Case) -> Iterator[Spot]:
    """Float16 numbers lie at the end of their range, or come within a factor of four of it in a run."""
    halves = [(name, array) for name, array in case.floats if array.dtype == np.float16]
    for name, array in halves:
        clipped = int((np.abs(array) == np.float16(_HALF_LIMIT)).sum())
        if clipped and array.size > 1:
            yield Spot(f"initializer {name!r}", f"{clipped} of {array.size} numbers are at float16's largest, 65504")
    if not halves and not any(port.dtype == np.float16 for port in case.session.inputs):
        return
    found = []
    for name, value in observe(case.model, case.feeds).items():
        if getattr(value, "dtype", None) == np.float16 and value.size:
            top = float(np.max(np.abs(value[~np.isnan(value)]).astype(np.float32), initial=0.0))
            if top > _HALF_LIMIT / _HEADROOM and not _masked(value):
                found.append((top, name))
    for top, name in sorted(found, reverse=True)[:_SHOWN]:
        yield Spot(f"tensor {name!r}", f"reaches {top:g} of float16's 65504 on {case.samples.source}")


def _masked(value: np.ndarray[tuple[int, ...], np.dtype[np.float16]]) -> bool:
    """Whether the large numbers are a mask: all negative and the type's least, as attention adds them."""
    large = value[np.abs(value.astype(np.float32)) > _HALF_LIMIT / _HEADROOM]
    return bool(large.size and np.all((large <= np.float16(-_HALF_LIMIT)) | np.isneginf(large)))


@rule(
    "subnormal-weight",
    "warning",
    needs="graph",
    do="Set them to zero: processors compute with subnormal numbers many times slower.",
)
def subnormal_weight(case: Case) -> Iterator[Spot]:
    """More than one in a hundred numbers of a tensor is too small for its type's full precision."""
    for name, array in case.floats:
        if array.dtype not in (np.float32, np.float64) or array.size < 100:
            continue
        size = np.abs(array)
        count = int(((size > 0) & (size < np.finfo(array.dtype).tiny)).sum())
        if count > _SUBNORMAL_SHARE * array.size:
            yield Spot(f"initializer {name!r}", f"{count} of {array.size} numbers are subnormal")


RULES = (nan_weight, infinite_weight, float16_overflow, subnormal_weight)
