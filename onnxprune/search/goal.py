"""What a user asks of the result: how fast, how small, how faithful."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from onnxprune.errors import OptionError
from onnxprune.sizes import parse_size

# Outputs by name and inputs by name, one entry a held-out sample; a higher figure is better.
Metric = Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]], float]

_UNITS_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What must hold of the result. Without any field set, nothing was asked and the default pipeline runs.

    Attributes:
        speedup: times as fast as the original, at least.
        latency_ms: of one run on the target, at most.
        size_share: of the original's bytes, at most.
        size_bytes: at most.
        fidelity: the floor under the held-out score; None: none was stated.
        metric: what the user's own metric is called; `labels` for the accuracy by the data's labels.
        max_drop: by how much the metric may fall below the original's.
        best: as fast as the floors allow.
        budget_s: of the search; measurements and refits that have begun are finished.
    """

    speedup: float | None = None
    latency_ms: float | None = None
    size_share: float | None = None
    size_bytes: int | None = None
    fidelity: float | None = None
    metric: str | None = None
    max_drop: float | None = None
    best: bool = False
    budget_s: float | None = None

    def __post_init__(self) -> None:
        """Reject what no result could meet, and wishes that exclude each other."""
        _positive("speedup", self.speedup)
        _positive("latency", self.latency_ms)
        _positive("size", self.size_share)
        _positive("size", self.size_bytes)
        _positive("budget", self.budget_s)
        if self.fidelity is not None and not self.fidelity <= 1:
            raise OptionError(
                f"fidelity must be at most 1 (a perfect copy), got {self.fidelity}. Give a share such as 0.95."
            )
        if self.size_share is not None and self.size_share > 1:
            raise OptionError(f"size must be a share of the original's bytes up to 1, got {self.size_share:g}.")
        if self.max_drop is not None and not (math.isfinite(self.max_drop) and self.max_drop >= 0):
            raise OptionError(f"max-drop must be at least 0, got {self.max_drop}.")
        if (self.metric is None) != (self.max_drop is None):
            raise OptionError("metric and max-drop belong together: a metric, and by how much it may fall.")
        if self.best and not self.only_floors:
            raise OptionError("best asks for the fastest model above the floor: give no speed or size with it.")
        if self.best and self.fidelity is None and self.metric is None:
            raise OptionError("best needs a floor. Give fidelity, or metric and max-drop.")

    @property
    def searches(self) -> bool:
        """Whether a plan has to be found; a floor alone only reverts edits."""
        return self.best or self.metric is not None or not self.only_floors

    @property
    def only_floors(self) -> bool:
        """Whether no speed or size was asked, only what must not be lost on the way to the fastest model."""
        return all(one is None for one in (self.speedup, self.latency_ms, self.size_share, self.size_bytes))

    def asked(self) -> dict[str, Any]:
        """What was asked, by the names of the options."""
        held = {
            "speedup": self.speedup,
            "latency_ms": self.latency_ms,
            "size_share": self.size_share,
            "size_bytes": self.size_bytes,
            "fidelity": self.fidelity,
            "metric": self.metric,
            "max_drop": self.max_drop,
            "best": self.best or None,
            "budget_s": self.budget_s,
        }
        return {name: value for name, value in held.items() if value is not None}

    def most_ms(self, original_ms: float) -> float:
        """Milliseconds of a run that may be taken; infinite where no speed was asked."""
        limits = [math.inf]
        if self.speedup is not None:
            limits.append(original_ms / self.speedup)
        if self.latency_ms is not None:
            limits.append(self.latency_ms)
        return min(limits)

    def most_bytes(self, original_bytes: int) -> float:
        """Bytes that the file may have; infinite where no size was asked."""
        limits = [math.inf]
        if self.size_share is not None:
            limits.append(self.size_share * original_bytes)
        if self.size_bytes is not None:
            limits.append(self.size_bytes)
        return min(limits)


def read_goal(
    *,
    speedup: float | None = None,
    latency: str | float | None = None,
    size: str | None = None,
    fidelity: float | Literal["off"] | None = None,
    metric: str | Metric | None = None,
    max_drop: float | None = None,
    best: bool = False,
    budget_min: float | None = None,
) -> Goal:
    """A goal as users state it.

    Args:
        speedup: times as fast as the original.
        latency: milliseconds, or text such as `5ms`.
        size: `0.2x` of the original, or `20MB`.
        fidelity: a floor, or `off`.
        metric: a function, or its name.
        max_drop: by how much the metric may fall.
        best: as fast as the floors allow.
        budget_min: minutes.

    Raises:
        OptionError: no result could meet it.
    """
    share, size_bytes = parse_share_or_size(size) if size is not None else (None, None)
    # In the unit that was typed.
    _positive("budget", budget_min)
    return Goal(
        speedup=speedup,
        latency_ms=parse_latency(latency) if isinstance(latency, str) else latency,
        size_share=share,
        size_bytes=size_bytes,
        fidelity=None if fidelity == "off" else fidelity,
        metric=getattr(metric, "__name__", "metric") if callable(metric) else metric,
        max_drop=max_drop,
        best=best,
        budget_s=None if budget_min is None else 60 * budget_min,
    )


def parse_latency(text: str) -> float:
    """Milliseconds of `5ms`, `300us` or `0.2s`.

    Raises:
        OptionError: no time, or no unit.
    """
    return _with_unit("latency", text, _UNITS_MS, "a time such as 5ms")


def parse_share_or_size(text: str) -> tuple[float | None, int | None]:
    """(share, None) of `0.2x`, (None, bytes) of `20MB` and whatever else `sizes.parse_size` takes.

    Raises:
        OptionError: neither a share nor a size.
    """
    wanted = "a share such as 0.2x or a size such as 20MB"
    if text.endswith("x"):
        return _number("size", text, text[:-1], wanted), None
    return None, parse_size("--size", text, wanted=wanted)


def parse_factor(name: str, text: str) -> float:
    """The number of `2`, `2x` or `1.5`."""
    return _number(name, text, text.removesuffix("x"), "a factor such as 2")


def _with_unit(name: str, text: str, units: Mapping[str, float], wanted: str) -> float:
    found = re.fullmatch(r"([0-9.eE+-]+)\s*([A-Za-z]+)", text)
    if found is None or found.group(2) not in units:
        raise OptionError(f"--{name} must be {wanted} (units: {', '.join(units)}), got {text!r}.")
    return _number(name, text, found.group(1), wanted) * units[found.group(2)]


def _number(name: str, text: str, digits: str, wanted: str) -> float:
    try:
        value = float(digits)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise OptionError(f"--{name} must be {wanted}, got {text!r}.")
    return value


def _positive(name: str, value: float | None) -> None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise OptionError(f"{name} must be above 0, got {value}.")
