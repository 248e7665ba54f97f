"""A row of the papers' table: what a paper claims, what is asked of it here, and how an answer is read from figures.

A row runs once a seed and gives figures by name; its checks look at the figures of all seeds. A seed is whatever is
drawn: calibration samples, training order, initial gates, or the split of a text. Modules of rows are imported by
tests: what only benchmarks need installed is imported in `run`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Figures = Mapping[str, float]
SEEDS = (0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one check came to.

    Attributes:
        holds: on every seed.
        figure: the numbers that say so, with their spread.
    """

    holds: bool
    figure: str


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that must hold, in words that can be wrong, and how it is read from the figures of all seeds."""

    words: str
    verdict: Callable[[Sequence[Figures]], Verdict]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One system of the thirteen.

    Attributes:
        system: its number, 1 … 13.
        name: of the method, as `onnxprune methods` lists it.
        paper: authors, year and title.
        headline: what the paper claims, in words; figures only where they were read in the paper or its code.
        source: where that was read: paper, its abstract, or the authors' code.
        checks: what is asked here; the row holds where all of them do.
        run: figures of one seed, under five minutes on one core.
        seeds: that it is run with by default.
        remarks: what is a reconstruction, what differs from the paper, and what was tried where something fails.
    """

    system: int
    name: str
    paper: str
    headline: str
    source: str
    checks: tuple[Check, ...]
    run: Callable[[int], Figures]
    seeds: tuple[int, ...] = SEEDS
    remarks: str = ""


def lower(name: str, other: str, words: str, unit: str = "") -> Check:
    """One figure is lower than another on every seed."""

    def verdict(seeds: Sequence[Figures]) -> Verdict:
        holds = all(figures[name] < figures[other] for figures in seeds)
        return Verdict(holds=holds, figure=_two(seeds, name, other, unit))

    return Check(words=words, verdict=verdict)


def higher(name: str, other: str, words: str, unit: str = "") -> Check:
    """One figure is higher than another on every seed."""

    def verdict(seeds: Sequence[Figures]) -> Verdict:
        holds = all(figures[name] > figures[other] for figures in seeds)
        return Verdict(holds=holds, figure=_two(seeds, name, other, unit))

    return Check(words=words, verdict=verdict)


def not_worse(name: str, other: str, words: str, unit: str = "") -> Check:
    """The mean of one figure, the lower the better, exceeds another's by no more than seeds of one differ."""

    def verdict(seeds: Sequence[Figures]) -> Verdict:
        own, others = ([figures[key] for figures in seeds] for key in (name, other))
        slack = max(max(own) - min(own), max(others) - min(others))
        holds = sum(own) / len(own) <= sum(others) / len(others) + slack
        return Verdict(holds=holds, figure=f"{_two(seeds, name, other, unit)}; seeds differ by {slack:.3g}")

    return Check(words=words, verdict=verdict)


def at_most(name: str, bound: float, words: str, unit: str = "") -> Check:
    """A figure is at most a bound on every seed."""

    def verdict(seeds: Sequence[Figures]) -> Verdict:
        holds = all(figures[name] <= bound for figures in seeds)
        return Verdict(holds=holds, figure=f"{name} {spread(seeds, name)}{_unit(unit)}")

    return Check(words=words, verdict=verdict)


def at_least(name: str, bound: float, words: str, unit: str = "") -> Check:
    """A figure is at least a bound on every seed."""

    def verdict(seeds: Sequence[Figures]) -> Verdict:
        holds = all(figures[name] >= bound for figures in seeds)
        return Verdict(holds=holds, figure=f"{name} {spread(seeds, name)}{_unit(unit)}")

    return Check(words=words, verdict=verdict)


def spread(seeds: Sequence[Figures], name: str) -> str:
    """Mean of a figure, and the range over seeds where they differ."""
    values = [figures[name] for figures in seeds]
    low, high = _short(min(values)), _short(max(values))
    mean = _short(sum(values) / len(values))
    return mean if low == high else f"{mean} ({low} … {high})"


def _short(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def _two(seeds: Sequence[Figures], name: str, other: str, unit: str) -> str:
    return f"{name} {spread(seeds, name)}, {other} {spread(seeds, other)}{_unit(unit)}"


def _unit(unit: str) -> str:
    return f" {unit}" if unit else ""
