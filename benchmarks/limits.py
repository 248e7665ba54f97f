"""How far a file is from what the machine can multiply: the share of a run in products, and of the peak."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.ceiling import PRODUCTS
from benchmarks.peak import Peak, best
from onnxprune.cost import macs
from onnxprune.model import load
from onnxprune.packing import unpacked
from onnxprune.runtime import observe_shapes, operator_times

Row = dict[str, Any]

_RUNS = 10
_INTEGER = frozenset({
    "ConvInteger", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QAttention", "QGemm",
    "QLinearConv", "QLinearMatMul",
})  # fmt: skip


def limit(file: Path, feed: Mapping[str, Any], median_ms: float, peaks: Mapping[str, Peak]) -> Row:
    """Return where a file's time goes.

    Args:
        file: a model that runs on `feed`.
        feed: what `median_ms` was measured on.
        median_ms: of one run.
        peaks: of the machine, see `peak.gemm_peaks`.

    Returns:
        {"products_share": of the profiled time, in operators that multiply; "integer": whether one of them multiplies
        integers; "macs": of one run, 0 where operators are not known; "peak_share": the time that those would take at
        the faster operator's peak, as a share of `median_ms`; null without `macs`}.
    """
    spent = operator_times(file, feed, runs=_RUNS)
    integer = not _INTEGER.isdisjoint(spent)
    work = _macs(file, feed)
    at_peak_ms = work / best(peaks, integer=integer).gmacs / 1e6
    return {
        "products_share": sum(ms for op, ms in spent.items() if op in PRODUCTS) / sum(spent.values()),
        "integer": integer,
        "macs": work,
        "peak_share": at_peak_ms / median_ms if work else None,
    }


def _macs(file: Path, feed: Mapping[str, Any]) -> int:
    try:
        model, _ = unpacked(load(file))
        return macs(model, {tensor: seen[0] for tensor, seen in observe_shapes(model, [dict(feed)]).items()})
    except Exception:  # noqa: BLE001 - other tools' files hold what onnxprune need not read; the row then says nothing
        return 0
