"""The page of each command, from what the command found."""

from __future__ import annotations

import math
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxprune.comparison import Comparison, Timings
from onnxprune.figures import OutputFigures
from onnxprune.inspection import Inspection, inspect
from onnxprune.memory import job_memory, read_limit
from onnxprune.model import size_on_disk
from onnxprune.report.page.document import Page, Section, Table
from onnxprune.report.page.looking import feeds_for, time_by_operator, where_lost
from onnxprune.report.page.sites import site_map
from onnxprune.report.targets import cost_text
from onnxprune.report.terminal import megabytes
from onnxprune.result import Result
from onnxprune.targets.timing import Ratio

# Sites named after one reason.
_NAMED = 12


def result_page(result: Result, data: str | None, command: Sequence[str], max_memory: str | int | None = None) -> Page:
    """Of `optimize`.

    Args:
        result: what it gave back.
        data: as the user named it.
        command: as the user typed it.
        max_memory: as for `optimize`. Where it is short, models are looked into piece by piece and not profiled.
    """
    before, after = result.before, result.after
    size = after.size_bytes / before.size_bytes
    speed = "Not timed" if result.timed is None else f"{result.timed_after.speedup.ratio:.2f} x the speed"
    score = result.fidelity.score
    verdict = f"{speed}, {size:.3f} x the file, {'no fidelity' if math.isnan(score) else f'fidelity {score:.4f}'}."
    if result.goal.asked:
        verdict += " The goal is met." if result.goal.met else f" The goal is missed: {result.goal.reason}."
    sections = [
        Section(title="Each target", parts=[_targets(result)]) if len(result.measurements) > 1 else None,
        _fidelity(result.fidelity.outputs, result.fidelity.samples, synthetic=result.data.synthetic),
        *_looked_into(result, data, max_memory),
        _changes(result),
        _reasons("Taken back", [skip for report in result.reports for skip in report.reverted]),
        _reasons("Left alone", [skip for report in result.reports for skip in report.skips]),
        Section(title="Notes", parts=[Table(head=("",), rows=[[note] for note in result.notes])])
        if result.notes
        else None,
    ]
    return Page(
        title=f"onnxprune: {result.input.name} became {result.output.name}",
        verdict=verdict,
        good=result.goal.met if result.goal.asked else None,
        warnings=[*([_SYNTHETIC] if result.data.synthetic else []), *result.warnings],
        figures=[
            ("file", megabytes(before.size_bytes), megabytes(after.size_bytes), f"{size:.3f} x"),
            ("gzip -1", megabytes(before.gzip_bytes), megabytes(after.gzip_bytes), ""),
            ("parameters", f"{before.params:,}", f"{after.params:,}", f"{after.nonzero:,} not zero"),
            ("multiply-accumulates a run", _count(before.macs), _count(after.macs), ""),
            *_timed_rows(result),
        ],
        sections=[section for section in sections if section is not None],
        command=f"{shlex.join(command)}\n\n# the same bytes again, without data:\n"
        + shlex.join(["onnxprune", "apply", str(result.input), str(result.plan), "-o", "OUT"]),
    )


def _looked_into(result: Result, data: str | None, max_memory: str | int | None) -> tuple[Section | None, ...]:
    """What the models tell site by site, operator by operator and block by block."""
    before, after = result.input, result.output
    with job_memory(read_limit(max_memory), size_on_disk(before)):
        feeds = feeds_for(before, data, result.shape)
        return (
            site_map(inspect(before, max_memory=max_memory), inspect(after, max_memory=max_memory)),
            # Where there was no room for a clock, there is none for a profile.
            None if result.timed is None else time_by_operator(before, after, feeds),
            where_lost(before, after, feeds),
        )


def _timed_rows(result: Result) -> list[tuple[str, str, str, str]]:
    """What the clock, or the count, said of both."""
    if result.timed is None:
        return []
    before, after = result.timed
    ratio = after.speedup
    remark = f"{_ratio(ratio)}, {ratio.runs} paired runs, timed on {_shapes(result.shape)}"
    if after.instructions is not None:
        return [(f"a run on {result.target}", cost_text(before), cost_text(after), remark)]
    return [
        ("load", f"{before.load_ms:.1f} ms", f"{after.load_ms:.1f} ms", ""),
        (f"latency on {result.target}", cost_text(before), cost_text(after), remark),
    ]


def comparison_page(
    result: Comparison, data: str | None, command: Sequence[str], max_memory: str | int | None = None
) -> Page:
    """Of `validate`; see `result_page`."""
    found = result.fidelity
    sections = [_fidelity(found.outputs, found.samples, synthetic=result.synthetic)]
    if result.divergence is not None:
        parted = result.divergence
        rows = [[name, f"{error:.2e}"] for name, error in parted.feeding.items()]
        text = (
            f"{parted.tensor} ({parted.op}) is the first tensor that differs: relative error {parted.relative_l2:.2e}, "
            f"largest {parted.max_abs:.3g}, where {parted.tolerance:g} is let pass."
        )
        parts = [Table(head=("what feeds it", "relative error"), rows=rows)] if rows else []
        sections.append(Section(title="Where they first part", text=text, parts=parts))
    with job_memory(read_limit(max_memory), size_on_disk(result.reference)):
        lost = where_lost(result.reference, result.candidate, feeds_for(result.reference, data, {}))
    reached = "reaches" if result.passed else "is under"
    return Page(
        title=f"onnxprune: {result.candidate.name} beside {result.reference.name}",
        verdict=f"Fidelity {found.score:.4f} {reached} {result.floor:g}.",
        good=result.passed,
        warnings=[_SYNTHETIC] if result.synthetic else [],
        sections=[*sections, *([lost] if lost is not None else [])],
        command=shlex.join(command),
    )


def timings_page(result: Timings, data: str | None, command: Sequence[str], *, here: bool = True) -> Page:
    """Of `time`; see `result_page`. Where a device was timed, nothing is run `here`."""
    sections = []
    for measured in result.measurements:
        if measured.latency == "wall":
            head = ("model", "load ms", "median ms", "p10", "p90", "times as fast", "95 % interval")
            rows = [
                [path.name, f"{timed.load_ms:.1f}", f"{timed.latency_ms.median:.3f}", f"{timed.latency_ms.p10:.3f}",
                 f"{timed.latency_ms.p90:.3f}", f"{timed.speedup.ratio:.3f}",
                 f"{timed.speedup.low:.3f} … {timed.speedup.high:.3f}"]
                for path, timed in zip(result.paths, measured.models, strict=True)
            ]  # fmt: skip
            table = Table(head=head, rows=rows)
        elif measured.models:
            table = Table(
                head=("model", "a run", "times as fast", "95 % interval"),
                rows=[
                    [path.name, cost_text(timed), f"{timed.speedup.ratio:.3f}",
                     f"{timed.speedup.low:.3f} … {timed.speedup.high:.3f}"]
                    for path, timed in zip(result.paths, measured.models, strict=True)
                ],
            )  # fmt: skip
        else:
            table = Table(
                head=("model", "nodes on the provider"),
                rows=[
                    [path.name, f"{placed.counts[placed.provider]} of {len(placed.nodes)}"]
                    for path, placed in zip(result.paths, measured.placements, strict=True)
                ],
            )
        sections.append(Section(title=measured.target, text=" ".join(measured.notes), parts=[table]))
    if here and len(result.paths) == 2:
        operators = time_by_operator(result.paths[0], result.paths[1], feeds_for(result.paths[0], data, result.shape))
        sections += [operators] if operators is not None else []
    first = next((each for each in result.measurements if each.models), None)
    verdict = f"{len(result.paths)} models on {len(result.measurements)} targets."
    if first is not None and len(result.paths) == 2:
        ratio = first.models[1].speedup
        verdict = f"{result.paths[1].name} is {ratio.ratio:.2f} x as fast as {result.paths[0].name} on {first.target}."
    text = f"Timed on {_shapes(result.shape)}."
    return Page(title="onnxprune: timings", verdict=f"{verdict} {text}", sections=sections, command=shlex.join(command))


def inspection_page(result: Inspection, command: Sequence[str]) -> Page:
    """Of `inspect`; see `result_page`."""
    found = result.to_json()
    cut = sum(site["kind"] in {"heads", "neurons", "channels"} for site in found["sites"])
    pinned: dict[str, list[str]] = defaultdict(list)
    for pin in found["pinned"]:
        pinned[pin["why"]].append(f"{pin['tensor']}[{pin['axis']}]")
    ports = [
        [port["name"], str(port["dtype"]), "x".join(map(str, port["shape"]))]
        for port in found["inputs"] + found["outputs"]
    ]
    sections = [
        site_map(result, result),
        Section(title="Inputs and outputs", parts=[Table(head=("name", "type", "shape"), rows=ports)]),
        _grouped("What is pinned, and why", pinned),
        Section(title="Notes", parts=[Table(head=("",), rows=[[note] for note in result.notes])])
        if result.notes
        else None,
    ]
    return Page(
        title=f"onnxprune: {result.path.name}",
        verdict=f"{result.params:,} parameters, {_count(result.macs)} multiply-accumulates a run, {cut} sites to cut.",
        sections=[section for section in sections if section is not None],
        command=shlex.join(command),
    )


_SYNTHETIC = "Synthetic inputs: no --data was given, so fidelity is a plausibility check, not accuracy."


def _fidelity(outputs: Mapping[str, OutputFigures], samples: int, *, synthetic: bool) -> Section:
    def cell(value: float | None) -> str:
        return "" if value is None else f"{value:.4g}"

    rows = [
        [name, cell(each.explained), cell(each.cosine_mean), cell(each.cosine_p05), cell(each.max_abs),
         cell(each.relative_l2), cell(each.top1_agreement)]
        for name, each in outputs.items()
    ]  # fmt: skip
    head = ("output", "explained", "cosine, mean", "cosine, 5 %", "largest error", "relative error", "same top-1")
    kind = "synthetic" if synthetic else "held-out"
    text = (
        f"On {samples} {kind} samples. Explained: the share of an output's variance that survives, 1 is a perfect copy."
    )
    return Section(title="Fidelity", text=text, parts=[Table(head=head, rows=rows)])


def _targets(result: Result) -> Table:
    rows = []
    for measured in result.measurements:
        nodes = ""
        if measured.placements:
            placed = measured.placements[1]
            nodes = f"{placed.counts[placed.provider]} of {len(placed.nodes)}"
        if measured.models:
            ratio = measured.models[1].speedup
            rows.append([measured.target, _ratio(ratio), nodes])
        else:
            rows.append([measured.target, "forecast", nodes])
    return Table(head=("target", "times as fast", "nodes on the provider"), rows=rows)


def _changes(result: Result) -> Section:
    rows: list[list[str]] = []
    for report in result.reports:
        words: dict[str, list[Any]] = defaultdict(list)
        for change in report.changes:
            words[change.what.partition(":")[0]].append(change)
        for what, changes in words.items():
            sizes = [sum(getattr(change, name) for change in changes) for name in ("bytes_before", "bytes_after")]
            rows.append([report.pass_spec, what, str(len(changes)), *map(megabytes, sizes)])
        if not report.changes:
            rows.append([report.pass_spec, "nothing changed", "", "", ""])
    head = ("pass", "what", "sites", "weights before", "after")
    return Section(title="What was changed", parts=[Table(head=head, rows=rows)])


def _reasons(title: str, skips: Sequence[Any]) -> Section | None:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for skip in skips:
        by_reason[skip.why.partition("; ")[0]].append(skip.site)
    return _grouped(title, by_reason)


def _grouped(title: str, by_reason: Mapping[str, Sequence[str]]) -> Section | None:
    if not by_reason:
        return None
    rows = [
        [why, str(len(sites)), ", ".join(sites[:_NAMED]) + (", …" if len(sites) > _NAMED else "")]
        for why, sites in sorted(by_reason.items(), key=lambda item: -len(item[1]))
    ]
    return Section(title=title, parts=[Table(head=("why", "count", "which"), rows=rows)])


def _shapes(shape: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{name}={'x'.join(map(str, size)) or 'scalar'}" for name, size in shape.items())


def _ratio(ratio: Ratio) -> str:
    return f"{ratio.ratio:.2f} x [{ratio.low:.2f}, {ratio.high:.2f}]"


def _count(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def command_of(arguments: Sequence[str]) -> list[str]:
    """The command as it was typed, without the folder of the program."""
    return [Path(arguments[0]).name.removesuffix(".py").replace("__main__", "onnxprune"), *arguments[1:]]
