"""Providers that must run the model, shapes that they want, and processors that compute otherwise."""

from __future__ import annotations

from collections.abc import Iterator

from onnxprune.checking.case import Case
from onnxprune.checking.finding import Spot
from onnxprune.checking.rule import rule
from onnxprune.errors import ModelError, TargetError
from onnxprune.targets.placement import CPU, Placement, summary
from onnxprune.targets.target import parse_target

# Targets that compile parts of a graph for one shape, and those that only want their images' sizes fixed.
_FIXED = {"coreml", "nnapi", "provider:QNN"}
_FIXED_BUT_BATCH = {"arm64-xnnpack", "xnnpack", "xnnpack-web"}
_SHOWN = 3


@rule(
    "must-run",
    "error",
    needs="run",
    do="Choose another form: onnxprune optimize MODEL --target TARGET, fixed shapes by onnxprune deploy.",
)
def must_run(case: Case) -> Iterator[Spot]:
    """A provider of --must-run takes no node, fewer than asked for, or refuses the model."""
    for name, share in case.budgets.must_run.items():
        try:
            placement, forecast = case.placement(name)
        except (ModelError, TargetError) as error:
            yield Spot(f"target {name}", f"does not run there: {error}")
            continue
        if forecast and share is None and case.verdict(name) == "no":
            yield Spot(f"target {name}", f"forecast: not worth it: {_told(placement)}")
        elif _taken(placement) < (share or 0) or not _taken(placement):
            asked = "one at least is asked for" if share is None else f"{share:.0%} are asked for"
            yield Spot(f"target {name}", f"{'forecast: ' * forecast}{_told(placement)}; {asked}")


@rule("falls-back", "note", needs="run", do="See all of it: onnxprune time MODEL --target TARGET --json.")
def falls_back(case: Case) -> Iterator[Spot]:
    """A provider of --must-run leaves nodes to the processor."""
    for name in case.budgets.must_run:
        try:
            placement, forecast = case.placement(name)
        except (ModelError, TargetError):
            continue
        if placement.provider != CPU and 0 < _taken(placement) < 1:
            yield Spot(f"target {name}", f"{'forecast: ' * forecast}{_told(placement)}")


@rule(
    "dynamic-shapes",
    "warning",
    needs="session",
    do="Write a form with fixed shapes: onnxprune deploy MODEL --fixed-shapes NAME=1x128.",
)
def dynamic_shapes(case: Case) -> Iterator[Spot]:
    """An input's size is open, and a provider of --must-run wants it fixed."""
    for target in case.budgets.must_run:
        first = {**dict.fromkeys(_FIXED, 0), **dict.fromkeys(_FIXED_BUT_BATCH, 1)}.get(parse_target(target).name)
        if first is None:
            continue
        for port in case.session.inputs:
            if any(not isinstance(size, int) for size in port.shape[first:]):
                yield Spot(
                    f"input {port.name!r}", f"is {str(port).removeprefix(f'{port.name} ')}; {target} wants it fixed"
                )


@rule("unnamed-axis", "note", needs="session", do="Name dynamic axes at export, the same name for the same size.")
def unnamed_axis(case: Case) -> Iterator[Spot]:
    """An open size of an input has no name, so that nothing says which sizes belong together."""
    for port in case.session.inputs:
        axes = [str(at) for at, size in enumerate(port.shape) if size is None or size in {"", "?"}]
        if axes:
            yield Spot(f"input {port.name!r}", f"axis {', '.join(axes)} of {len(port.shape)} has no name")


def _taken(placement: Placement) -> float:
    return placement.counts[placement.provider] / max(1, len(placement.nodes))


def _told(placement: Placement) -> str:
    left = [f"{one.op} ({one.count}): {one.why}" for one in placement.fallen]
    more = f"; and {len(left) - _SHOWN} operators more" if len(left) > _SHOWN else ""
    return "; ".join([summary(placement), *left[:_SHOWN]]) + more


RULES = (must_run, falls_back, dynamic_shapes, unnamed_axis)
