"""The report on a terminal: as high as a terminal, and what does not fit is counted."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from onnxprune import optimize, pipeline
from onnxprune.plan import Skip
from onnxprune.report.terminal import print_result, skip_lines
from tests import graphs


@pytest.mark.parametrize("reasons", [0, 1, 40])
def test_the_report_is_no_higher_than_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reasons: int) -> None:
    monkeypatch.setattr(pipeline, "TIMING_S", 0.02)
    result = optimize(graphs.saved(graphs.feed_forward(), tmp_path), output=tmp_path / "small.onnx")
    skips = tuple(Skip(site=f"linear.{at}", why=f"reason {at}") for at in range(reasons))
    first, *others = result.reports
    figures = dict.fromkeys([f"y{at}" for at in range(30)], result.fidelity.outputs["y"])
    result = replace(
        result,
        reports=(replace(first, skips=skips), *others),
        fidelity=replace(result.fidelity, outputs=figures),
        notes=tuple(f"remark {at}" for at in range(reasons)),
    )
    held = io.StringIO()
    print_result(result, Console(file=held, width=140))
    lines = held.getvalue().splitlines()
    assert len(lines) <= 24
    # Of 30 outputs three are told, and the rest is counted.
    assert "… and 27 lines more: --html FILE or --json tells all" in lines
    assert lines[-1].startswith("replay: onnxprune apply ")
    told = [line for line in lines if line.startswith(("left alone: ", "note: "))]
    whole = [*skip_lines([skip for one in result.reports for skip in one.skips], "left alone"), *result.notes]
    missing = len(whole) - len(told)
    assert (f"… and {missing} lines more: --html FILE or --json tells all" in lines) == bool(missing)
    assert bool(missing) == (reasons == 40)
