"""Limits that the user set."""

from __future__ import annotations

from collections.abc import Iterator

from onnxprune.checking.case import Case
from onnxprune.checking.finding import Spot
from onnxprune.checking.rule import rule
from onnxprune.errors import ModelError
from onnxprune.metrics import Metric
from onnxprune.runtime import open_session

_LOADED_ON = "cpu:1"


@rule("over-size", "error", needs="file", do="Make it smaller: onnxprune optimize MODEL, with a goal or more passes.")
def over_size(case: Case) -> Iterator[Spot]:
    """The model and its data files are larger than --max-size."""
    size = sum(path.stat().st_size for path in case.files if path.is_file())
    case.figures["size_bytes"] = size
    limit = case.budgets.max_size
    if limit is not None and size > limit:
        yield Spot("model", f"{size} bytes, at most {limit} are allowed")


@rule("over-latency", "error", needs="run", do="Make it faster: onnxprune optimize MODEL with a goal for this target.")
def over_latency(case: Case) -> Iterator[Spot]:
    """The median run takes longer than --max-latency."""
    for target, limit in case.budgets.max_latency_ms.items():
        spread = case.timed(target)[-1].latency_ms
        case.figures.setdefault("latency_ms", {})[target] = spread.to_json()
        if spread.median > limit:
            took = f"{spread.median:.3g} ms [{spread.p10:.3g}, {spread.p90:.3g}]"
            yield Spot(f"target {target}", f"a run takes {took}, at most {limit:g} ms are allowed")


@rule(
    "over-load",
    "error",
    needs="run",
    do="Load from ORT format or unpacked weights: decoding and optimizing at load take time.",
)
def over_load(case: Case) -> Iterator[Spot]:
    """Making a session takes longer than --max-load."""
    limit = case.budgets.max_load_ms
    if limit is None:
        return
    took = case.timed(_LOADED_ON)[-1].load_ms
    case.figures["load_ms"] = took
    if took > limit:
        yield Spot(f"target {_LOADED_ON}", f"loading takes {took:.3g} ms, at most {limit:g} ms are allowed")


@rule(
    "interface-changed",
    "error",
    needs="session",
    do="Keep the reference's inputs and outputs, or tell those who call the model.",
)
def interface_changed(case: Case) -> Iterator[Spot]:
    """Inputs or outputs have other names, types or numbers of axes than the reference's."""
    if case.budgets.reference is None:
        return
    before = open_session(case.budgets.reference)
    for kind, old, new in (
        ("input", before.inputs, case.session.inputs),
        ("output", before.outputs, case.session.outputs),
    ):
        ours = {port.name: port for port in new}
        for port in old:
            own = ours.pop(port.name, None)
            if own is None:
                yield Spot(f"{kind} {port.name!r}", "the reference has it, the model has not")
            elif (own.dtype, len(own.shape)) != (port.dtype, len(port.shape)):
                said = [str(one).removeprefix(f"{one.name} ") for one in (own, port)]
                yield Spot(f"{kind} {port.name!r}", f"is {said[0]}, the reference's is {said[1]}")
        for name in ours:
            yield Spot(f"{kind} {name!r}", "the model has it, the reference has not")


@rule(
    "under-fidelity",
    "error",
    needs="run",
    do="Find where it diverges: onnxprune validate REFERENCE MODEL, or onnxprune optimize with a higher --fidelity.",
)
def under_fidelity(case: Case) -> Iterator[Spot]:
    """Outputs differ from the reference's by more than --min-fidelity allows."""
    floor = case.budgets.min_fidelity
    if floor is None:
        return
    try:
        found = case.comparison
    except ModelError as error:
        yield Spot("model", f"cannot be compared: {error}")
        return
    case.figures["fidelity"] = found.fidelity.score
    verdict = found.fidelity.at_least(floor)
    if not verdict.passed:
        parted = f"; first at {found.divergence.tensor!r}" if found.divergence is not None else ""
        yield Spot(f"output {verdict.output!r}", f"{verdict.why}, on {found.source}{parted}")


@rule(
    "under-metric", "error", needs="run", do="Train it further, or compress it less: onnxprune sweep shows the choice."
)
def under_metric(case: Case) -> Iterator[Spot]:
    """A metric of the user's own is below --min-metric."""
    for name, floor in case.budgets.min_metric.items():
        value = Metric(name).of(case.session, case.samples)
        case.figures.setdefault("metrics", {})[name] = value
        if not value >= floor:
            count = len(case.samples.feeds)
            yield Spot(f"metric {name}", f"is {value:.4g} on {count} samples, at least {floor:g} is asked for")


@rule(
    "slower-than-reference",
    "warning",
    needs="run",
    do="Ship the reference: int8 and low rank are not faster everywhere.",
)
def slower_than_reference(case: Case) -> Iterator[Spot]:
    """The model is slower than its reference, by alternated runs and their 95 % interval."""
    if case.budgets.reference is None:
        return
    for target in case.budgets.max_latency_ms or (_LOADED_ON,):
        ratio = case.timed(target)[-1].speedup
        case.figures.setdefault("speedup", {})[target] = ratio.to_json()
        if ratio.high < 1:
            interval = f"[{ratio.low:.2f}, {ratio.high:.2f}], {ratio.runs} paired runs"
            what = f"{ratio.ratio:.2f} x the reference's speed {interval}"
            yield Spot(f"target {target}", what)


RULES = (over_size, over_latency, over_load, interface_changed, under_fidelity, under_metric, slower_than_reference)
