"""Names that users chose, in paths and in graphs: whatever they hold, they are printed as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from rich.text import Text

from onnxprune import pipeline
from onnxprune.report.marking import marked
from tests import graphs
from tests.commands import run
from tests.graphs import info, node

# An end without a beginning is an error to rich, a style is taken away, `:key:` becomes a picture.
HOSTILE = "[/b] [red]x :key:0, ä/日本 {}"


@pytest.fixture(name="place")
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder and a file of such a name; in the file, names like it."""
    monkeypatch.setattr(pipeline, "TIMING_S", 0.02)
    folder = tmp_path / "[/b] [red]x :key: ä"
    # The bracket ends in a folder of its own.
    folder.mkdir(parents=True)
    nodes = [
        node("MatMul", [f"in {HOSTILE}", f"weight {HOSTILE}"], [f"h {HOSTILE}"], name=f"first {HOSTILE}"),
        node("Relu", [f"h {HOSTILE}"], [f"out {HOSTILE}"], name=f"second {HOSTILE}"),
    ]
    shape = ("batch", 32)
    stored = {f"weight {HOSTILE}": graphs.weights(32, 64)}
    proto = graphs.model(nodes, [info(f"in {HOSTILE}", shape)], [info(f"out {HOSTILE}", ("batch", 64))], stored)
    onnx.save(proto, folder / "model [red].onnx")
    return folder


def test_every_command_prints_names_as_they_are(place: Path) -> None:
    model, small, plan = (
        str(place / name) for name in ("model [red].onnx", "small [red].onnx", "small [red].plan.json")
    )
    told = run("optimize", model, "-o", small).stdout
    assert f"{small} — " in told
    assert f"  out {HOSTILE}: explained " in told
    assert f"replay: onnxprune apply {model} {plan} -o OUT" in told
    assert f"weight {HOSTILE}" in run("inspect", model).stdout
    assert f"  out {HOSTILE}: explained " in run("validate", model, small).stdout
    # A table folds what is too wide for it.
    assert "[red].onnx" in run("time", model, "--seconds", "0.02").stdout
    assert model in run("check", model).stdout
    assert "no such file" in run("inspect", f"{model}.gone").stderr
    page = place / "page.html"
    assert run("optimize", model, "-o", small, "--html", str(page)).exit_code == 0
    assert "out [/b] [red]x :key:0" in page.read_text(encoding="utf-8")


def test_samples_go_by_such_names(place: Path) -> None:
    arrays: dict[str, Any] = {f"in {HOSTILE}": graphs.weights(8, 1, 32)}
    np.savez(place / "data.npz", **arrays)
    model = str(place / "model [red].onnx")
    assert run("optimize", model, "-o", f"{model}.small", "--data", str(place / "data.npz")).exit_code == 0


def test_what_fills_a_template_is_no_markup() -> None:
    made = marked("[bold]{}[/]: {}", HOSTILE, "[red]a[/]")
    assert isinstance(made, Text)
    assert made.plain == f"{HOSTILE}: [red]a[/]"
    assert [span.style for span in made.spans] == ["bold"]
