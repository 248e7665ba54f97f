"""How much of a model's outputs survives: the figures that a floor under fidelity bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from onnxprune.errors import DataError, ModelError
from onnxprune.figures import Array, Kind, OutputFigures, finite
from onnxprune.interface import Interface
from onnxprune.roles import padding_masks, state_outputs, valid_positions
from onnxprune.runtime import Feeds, Port, Session
from onnxprune.streams import EqualStream, FloatStream, Stream

Outputs = Mapping[str, Any]
# A session, a function from feeds to outputs, or outputs that were computed before, in the order of the samples.
Source = Session | Callable[[Feeds], Outputs] | Iterable[Outputs]

RESAMPLES = 1000


@dataclass(frozen=True)
class Verdict:
    """Whether a comparison holds, and what would have held.

    Attributes:
        asked: the floor or tolerance that was asked for.
        would_pass: the strictest one that would have passed, rounded to the safe side; None where none would.
        output: the output that decides.
        why: one clause for a report.
    """

    passed: bool
    asked: float
    would_pass: float | None
    output: str | None
    why: str


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How far a candidate's outputs moved from the reference's.

    Attributes:
        score: the least score of the scored outputs; -inf where an output is broken, NaN where none was compared.
        low: lower end of the score's 95 % bootstrap interval over samples; NaN, like `high`, with one sample.
        samples: how many were compared.
        outputs: figures by output name.
        why: the reason where the score is not finite.
        draws: [resamples] the score on each resample; the same samples are drawn for every candidate, so that
            differences of draws are paired. None where there is no interval.
    """

    score: float
    low: float
    high: float
    samples: int
    outputs: Mapping[str, OutputFigures]
    why: str | None = None
    draws: Array | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """The same by name; null where a figure is undefined or infinite."""
        return {
            "score": finite(self.score),
            "low": finite(self.low),
            "high": finite(self.high),
            "samples": self.samples,
            "why": self.why,
            "outputs": {name: figures.to_json() for name, figures in self.outputs.items()},
        }

    def at_least(self, floor: float) -> Verdict:
        """Whether the score reaches a floor."""
        scored = [name for name, figures in self.outputs.items() if figures.score == self.score]
        output = scored[0] if scored else None
        if not math.isfinite(self.score):
            return Verdict(False, floor, None, output, self.why or "no figure came of it")
        best = math.floor(self.score * 1e4) / 1e4
        if self.score >= floor:
            return Verdict(True, floor, best, output, f"fidelity {self.score:.4f} reaches the floor {floor:g}")
        why = f"fidelity {self.score:.4f} is under the floor {floor:g}; {best:g} would pass"
        return Verdict(False, floor, best, output, why)

    def within(self, tolerance: float) -> Verdict:
        """Whether max|y-ŷ| ≤ tolerance · max|y| in every output, states included, and all integers are equal."""
        if self.why is not None or not self.outputs:
            return Verdict(False, tolerance, None, None, self.why or "no output was compared")
        output = max(self.outputs, key=lambda name: self.outputs[name].deviation)
        deviation = self.outputs[output].deviation
        if deviation <= tolerance:
            why = f"{output}: largest relative error {deviation:.1e}, within {tolerance:g}"
            return Verdict(True, tolerance, _rounded_up(deviation), output, why)
        if not math.isfinite(deviation):
            return Verdict(False, tolerance, None, output, f"{output}: no tolerance would pass")
        would = _rounded_up(deviation)
        why = f"{output}: largest relative error {deviation:.1e} exceeds {tolerance:g}; {would:g} would pass"
        return Verdict(False, tolerance, would, output, why)


@dataclass
class _Output:
    """One output while samples stream by."""

    port: Port
    state: bool
    floating: bool
    stream: Stream | None = None
    broken: str | None = None
    uncompared: str | None = None


def compare(
    reference: Source,
    candidate: Source,
    samples: Iterable[Feeds],
    *,
    inputs: Sequence[Port] | None = None,
    outputs: Sequence[Port] | None = None,
    seed: int = 0,
) -> Fidelity:
    """Run two models on the same samples and say how far the second moved; one sample is alive at a time.

    Args:
        reference: what is right.
        candidate: what is judged; if it fails at run time, the score is -inf and says so.
        samples: inputs by name, of one call each.
        inputs: the model's inputs; taken from the session where there is one, else from the first sample.
        outputs: likewise; they say which axes are dynamic.
        seed: of the resampling.

    Raises:
        DataError: there is no sample.
        ModelError: the reference does not run on a sample.
    """
    given = reference if isinstance(reference, Session) else candidate
    if isinstance(given, Session):
        inputs, outputs = inputs or given.inputs, outputs or given.outputs
    run_reference, run_candidate = _runner(reference), _runner(candidate)
    cut = candidate.interface if isinstance(candidate, Session) else Interface()
    known: dict[str, _Output] = {}
    masks: tuple[Port, ...] = ()
    count, why = 0, None
    for feeds in samples:
        expected = cut.fitted(run_reference(feeds))
        if not count:
            inputs = inputs or _ports(feeds)
            outputs = outputs or _ports(expected)
            states = state_outputs(inputs, outputs)
            masks = padding_masks(inputs)
            known = {port.name: _Output(port, port.name in states, _is_float(port.dtype)) for port in outputs}
        count += 1
        try:
            obtained = run_candidate(feeds)
        except ModelError as error:
            why = str(error)
            break
        for name, output in known.items():
            if output.broken is None and output.uncompared is None:
                broken = _take(output, expected[name], obtained.get(name), feeds, masks)
                output.broken = broken and f"{name}, sample {count}: {broken}"
    if not count:
        raise DataError("A comparison needs at least one sample, got none. Give --data with samples in it.")
    return _judge(known, count, why, seed)


def _take(output: _Output, expected: Any, obtained: Any, feeds: Feeds, masks: Sequence[Port]) -> str | None:
    """Add one sample to an output's figures; the reason where the candidate's is broken."""
    if obtained is None:
        return "the candidate has no such output"
    (y, labels), (z, other_labels) = _as_array(expected), _as_array(obtained)
    if y is None or z is None:
        output.uncompared = "not a tensor"
        return None
    output.floating = _is_float(y.dtype)
    if y.shape != z.shape:
        return f"shape {list(y.shape)} became {list(z.shape)}"
    if output.floating != _is_float(z.dtype):
        return f"{y.dtype} became {z.dtype}"
    if labels != other_labels:
        return "the labels differ"
    if output.stream is None:
        output.stream = FloatStream(output.port.shape) if output.floating else EqualStream()
    return output.stream.add(y, z, valid_positions(masks, feeds, output.port, y.shape))


def _judge(known: Mapping[str, _Output], count: int, why: str | None, seed: int) -> Fidelity:
    figures = {name: _figures(output) for name, output in known.items()}
    groups = [
        [name for name, output in known.items() if figures[name].kind == kind and output.floating in floating]
        for kind, floating in (("scored", (True,)), ("integer", (False,)), ("state", (True,)), ("state", (False,)))
    ]
    scoring = next((names for names in groups if any(not math.isnan(figures[name].score) for name in names)), [])
    for name in scoring:
        figures[name] = replace(figures[name], kind="scored" if known[name].floating else "integer")
    why = why or next((output.broken for output in known.values() if output.broken), None)
    why = why or next((f"{name}: {found.why}" for name, found in figures.items() if found.failed), None)
    if why is not None:
        return Fidelity(score=-math.inf, low=-math.inf, high=-math.inf, samples=count, outputs=figures, why=why)
    scores = {name: figures[name].score for name in scoring if not math.isnan(figures[name].score)}
    if not scores:
        why = "no output could be compared"
        return Fidelity(score=math.nan, low=math.nan, high=math.nan, samples=count, outputs=figures, why=why)
    score = min(scores.values())
    draws = _draws([known[name].stream for name in scores], count, seed)
    low, high = interval(draws)
    low, high = min(low, score), max(high, score)
    return Fidelity(score=score, low=low, high=high, samples=count, outputs=figures, draws=draws)


def _draws(streams: Sequence[Stream | None], count: int, seed: int) -> Array | None:
    """[resamples] the least score, samples drawn anew; Efron and Tibshirani 1993, chapter 13."""
    if count < 2:
        return None
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    return np.min([stream.terms().scores(weights.astype(np.float64)) for stream in streams if stream], axis=0)  # type: ignore[no-any-return]


def interval(draws: Array | None) -> tuple[float, float]:
    """The middle 95 % of resampled figures; NaN without any."""
    if draws is None:
        return math.nan, math.nan
    return float(np.quantile(draws, 0.025, method="lower")), float(np.quantile(draws, 0.975, method="higher"))


def _figures(output: _Output) -> OutputFigures:
    kind: Kind = "state" if output.state else "scored" if output.floating else "integer"
    if output.uncompared is not None:
        return OutputFigures(kind="uncompared", why=output.uncompared)
    if output.broken is not None:
        return OutputFigures(kind=kind, failed=True, why=output.broken)
    return output.stream.figures(kind) if output.stream else OutputFigures(kind=kind)


def _runner(source: Source) -> Callable[[Feeds], Outputs]:
    if isinstance(source, Session):
        return source.run
    if callable(source):
        return source
    results = iter(source)

    def next_outputs(_: Feeds) -> Outputs:
        outputs = next(results, None)
        if outputs is None:
            raise DataError("There are more samples than outputs computed before. Give as many outputs as samples.")
        return outputs

    return next_outputs


def _is_float(dtype: np.dtype[Any] | None) -> bool:
    return dtype is not None and dtype.kind == "f"


def _ports(values: Mapping[str, Any]) -> tuple[Port, ...]:
    """Ports as far as one call shows them: the first axis is the batch, the others are taken as fixed."""
    arrays = {name: _as_array(value)[0] for name, value in values.items()}
    return tuple(
        Port(name, None, ()) if array is None else Port(name, array.dtype, (None, *array.shape[1:])[: array.ndim])
        for name, array in arrays.items()
    )


def _as_array(value: Any) -> tuple[Array | None, tuple[str, ...]]:
    """A tensor, or the maps from labels to numbers that classifiers of sklearn give out, as an array and its labels."""
    if isinstance(value, np.ndarray | np.generic | float | int):
        return np.asarray(value), ()
    if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        labels = sorted(value[0], key=str)
        if labels and all(entry.keys() == value[0].keys() for entry in value):
            return np.array([[entry[label] for label in labels] for entry in value], np.float64), tuple(
                map(str, labels)
            )
    return None, ()


def _rounded_up(value: float) -> float:
    """The value with two digits, not below it."""
    rounded = float(f"{value:.1e}")
    if rounded < value:
        rounded = float(f"{rounded + 10.0 ** (math.floor(math.log10(value)) - 1):.1e}")
    return rounded
