"""What a model must keep to: sizes, times, agreement with a reference, providers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onnxprune.errors import OptionError
from onnxprune.metrics import Metric


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """Limits, and the inputs they are measured on.

    Attributes:
        max_size: bytes of the model file and its data files.
        max_latency_ms: median milliseconds of one run, by target.
        max_load_ms: median milliseconds to make a session, on `cpu:1`.
        min_fidelity: least score against `reference`.
        min_metric: least values of the user's own metrics, by name: `labels` or `module:function`.
        must_run: least share of the nodes that a provider takes, by target; None for one node at least.
        portable: whether it must answer alike on x64 without VNNI.
        reference: the model that is right.
        data: sample inputs; made-up ones without it.
        shape: `NAME=1x128` for the run.
        seconds: of timed runs a model and target.
        seed: of made-up inputs.
    """

    max_size: int | None = None
    max_latency_ms: Mapping[str, float] = field(default_factory=dict)
    max_load_ms: float | None = None
    min_fidelity: float | None = None
    min_metric: Mapping[str, float] = field(default_factory=dict)
    must_run: Mapping[str, float | None] = field(default_factory=dict)
    portable: bool = False
    reference: Path | None = None
    data: str | None = None
    shape: Sequence[str] = ()
    seconds: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.min_fidelity is not None and self.reference is None:
            raise OptionError("--min-fidelity needs a model to compare with. Name it with --reference.")
        if self.min_fidelity is not None and not self.min_fidelity <= 1:
            raise OptionError(f"--min-fidelity must be at most 1 (a perfect copy), got {self.min_fidelity}.")
        for name, limit in (
            ("--max-load", self.max_load_ms),
            *(("--max-latency", ms) for ms in self.max_latency_ms.values()),
        ):
            if limit is not None and not (math.isfinite(limit) and limit > 0):
                raise OptionError(f"{name} must be milliseconds above 0, got {limit}.")


def parse_metrics(texts: Sequence[str]) -> dict[str, float]:
    """Least values by metric from `labels=0.8` or `module:function=0.8`.

    Raises:
        OptionError: not a metric and a number.
    """
    limits = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        try:
            limits[Metric(name).name] = float(value)
        except (OptionError, ValueError):
            raise OptionError(
                f"--min-metric must be labels=VALUE or module:function=VALUE such as labels=0.8, got {text!r}."
            ) from None
    return limits


def parse_providers(texts: Sequence[str]) -> dict[str, float | None]:
    """Least shares of nodes by target from `xnnpack` or `xnnpack=0.8`.

    Raises:
        OptionError: not a share.
    """
    limits: dict[str, float | None] = {}
    for text in texts:
        target, equals, share = text.partition("=")
        try:
            limits[target] = float(share) if equals else None
        except ValueError:
            limits[target] = math.nan
        least = limits[target]
        if not target or not (least is None or 0 < least <= 1):
            raise OptionError(f"--must-run must be TARGET or TARGET=SHARE such as xnnpack=0.8, got {text!r}.")
    return limits


def parse_latencies(texts: Sequence[str]) -> dict[str, float]:
    """Milliseconds by target from `cpu:1=12.5`.

    Raises:
        OptionError: not a target and a time.
    """
    limits = {}
    for text in texts:
        target, equals, ms = text.rpartition("=")
        try:
            limits[target] = float(ms)
        except ValueError:
            equals = ""
        if not equals or not target:
            raise OptionError(f"--max-latency must be TARGET=MILLISECONDS such as cpu:1=12.5, got {text!r}.")
    return limits
