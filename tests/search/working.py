"""A target whose clock counts work, so that searches can be tested to the digit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from onnxprune.runtime import Feeds
from onnxprune.targets.placement import CPU, Placement
from onnxprune.targets.timing import Latency, Ratio, Timed

# Milliseconds of a call, and of a million numbers in float and in int8.
CALL_MS, FLOAT_MS, INTEGER_MS = 0.001, 1000.0, 500.0


def _alike(ratio: float) -> Ratio:
    return Ratio(ratio, ratio, ratio, 11)


def timed(paths: Sequence[Path], taken: Sequence[float]) -> tuple[Timed, ...]:
    """What a target says of files that take so many milliseconds each time."""
    return tuple(
        Timed(name=path.name, load_ms=1.0, latency_ms=Latency(ms, ms, ms), speedup=_alike(taken[0] / ms))
        for path, ms in zip(paths, taken, strict=True)
    )


@dataclass
class WorkTarget:
    """Takes as long as a model's weights are large.

    Attributes:
        timed: how many files each race held.
        fused: share of the time that a model with `Attention` takes.
    """

    timed: list[int] = field(default_factory=list)
    fused: float = 1.0
    name: str = "work:1"
    about: str = "counts work"
    latency: Literal["wall"] = "wall"
    threads: int = 1

    def time(self, paths: Sequence[Path], feeds: Feeds, *, budget_s: float = 4.0) -> tuple[Timed, ...]:
        """Milliseconds by work."""
        del feeds, budget_s
        self.timed.append(len(paths))
        return timed(paths, [work_ms(path) * (self.fused if is_fused(path) else 1.0) for path in paths])

    def probe(self) -> None:
        """Always there."""

    def run(self, paths: Sequence[Path], feeds: Feeds) -> Any:
        """Never asked."""
        raise NotImplementedError

    def place(self, paths: Sequence[Path], feeds: Feeds) -> tuple[Placement, ...]:
        """No nodes."""
        del feeds
        return tuple(Placement(provider=CPU, nodes=(), partitions=0) for _ in paths)


def is_fused(path: Path) -> bool:
    """Whether an attention is one operator."""
    return any(node.op_type == "Attention" for node in onnx.load(path).graph.node)


def work_ms(path: Path) -> float:
    """What the clock says of a file."""
    total = CALL_MS
    for tensor in onnx.load(path).graph.initializer:
        size = int(np.prod(tensor.dims))
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2:
            total += size * FLOAT_MS / 1e6
        elif tensor.data_type == onnx.TensorProto.INT8:
            total += size * INTEGER_MS / 1e6
    return total
