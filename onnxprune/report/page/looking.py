"""What a page shows beside a run's own figures: time by operator, where outputs part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from onnxprune.blocks import find_blocks
from onnxprune.comparison import inputs_for, timed_feeds
from onnxprune.divergence import relative_errors
from onnxprune.errors import ModelError
from onnxprune.model import load
from onnxprune.packing import unpacked
from onnxprune.report.page.document import Section
from onnxprune.report.page.pictures import course, pairs
from onnxprune.runtime import Feeds, observe_shapes, open_session, operator_times

# Operators that take less than this share of a run are one line.
_SMALL = 0.02


def feeds_for(path: Path, data: str | None, sizes: Mapping[str, Sequence[int]]) -> Feeds:
    """The input of the timed run: the first sample, or a synthetic one, at the sizes that were timed."""
    model, session = unpacked(load(path))[0], open_session(path)
    wanted = {name: tuple(size) for name, size in sizes.items()}
    return timed_feeds(model, session, inputs_for(model, session, data, wanted, 0), wanted)


def time_by_operator(before: Path, after: Path, feeds: Feeds) -> Section | None:
    """Where a run's time goes, before and after; None where the runtime gives no profile."""
    try:
        first, second = operator_times(before, feeds), operator_times(after, feeds)
    except ModelError:
        return None
    limit = _SMALL * max(sum(first.values()), sum(second.values()))
    names = sorted(first.keys() | second.keys())
    large = [name for name in names if max(first.get(name, 0.0), second.get(name, 0.0)) >= limit]
    values = {name: (first.get(name, 0.0), second.get(name, 0.0)) for name in large}
    rest = [name for name in names if name not in values]
    if rest:
        sums = [sum(of.get(name, 0.0) for name in rest) for of in (first, second)]
        values[f"{len(rest)} others"] = (sums[0], sums[1])
    text = (
        "Milliseconds by operator, medians of onnxruntime's own profile on one thread of the CPU provider. Profiling "
        "adds to each operator, so the sums exceed the measured latency."
    )
    return Section(title="Where the time goes", text=text, parts=[pairs(values, "ms")])


def where_lost(before: Path, after: Path, feeds: Feeds) -> Section | None:
    """The error behind each residual block that both models have; None where there are fewer than two."""
    reference, candidate = unpacked(load(before))[0], unpacked(load(after))[0]
    try:
        shapes = observe_shapes(reference, [feeds])
        names = [block.output for block in find_blocks(reference.graph, shapes)]
        found = relative_errors(reference, candidate, feeds, names)
    except ModelError:
        return None
    values = [(name, found[name]) for name in names if name in found]
    if len(values) < 2:
        return None
    largest = max((values[at][1] - (values[at - 1][1] if at else 0.0), values[at][0]) for at in range(len(values)))
    where = largest[1]
    text = f"‖y-ŷ‖ / ‖y‖ behind each residual block, on one input. It grows most in the one that ends in {where}."
    return Section(title="Where fidelity is lost", text=text, parts=[course(values, "relative error")])
