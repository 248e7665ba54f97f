"""What inspect tells: every kind of site, dead units, pins with their reasons, and what a cut took before."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import onnx
import pytest
from rich.console import Console

from onnxprune import inspection
from onnxprune.errors import ModelError
from onnxprune.inspection import inspect
from onnxprune.pipeline import optimize
from onnxprune.report.terminal import print_inspection
from tests import graphs
from tests.building import Net
from tests.test_blocks import WIDTH, attention, feed_forward, norm


def transformer(folder: Path, *, dead: bool = False) -> Path:
    """One layer behind an embedding."""
    net = Net()
    ids = net.input("ids", ["b", "s"], onnx.TensorProto.INT64)
    x = net.op("Gather", net.weight(50, WIDTH), ids)
    x = net.op("Add", x, attention(net, norm(net, x)))
    x = net.op("Add", x, feed_forward(net, norm(net, x)))
    net.output(x)
    proto = net.proto()
    if dead:
        # The last product reads 32 neurons; it ignores 4 and 5.
        tensor = [each for each in proto.graph.initializer if list(each.dims) == [32, WIDTH]][-1]
        values = onnx.numpy_helper.to_array(tensor).copy()
        values[[4, 5]] = 0
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return graphs.saved(proto, folder)


def test_sites_of_every_kind_are_listed(tmp_path: Path) -> None:
    document = inspect(transformer(tmp_path, dead=True)).to_json()
    kinds = [site["kind"] for site in document["sites"]]
    assert kinds == ["embedding", *["linear"] * 6, "heads", "neurons", "block", "block"]
    keys = {"id", "kind", "units", "unit_size", "params", "dead_units", "shared_by"}
    assert all(site.keys() >= keys for site in document["sites"])
    by_id = {site["id"]: site for site in document["sites"]}
    # 4 heads of 6 columns: queries, keys and values (24 + 1)·6 each, and 6·24 rows of the output.
    assert (by_id["heads.0"]["units"], by_id["heads.0"]["unit_size"]) == (4, 3 * 25 * 6 + 6 * 24)
    # Up 24 + 1, down 24.
    assert (by_id["neurons.0"]["units"], by_id["neurons.0"]["unit_size"]) == (32, 49)
    assert (by_id["heads.0"]["dead_units"], by_id["neurons.0"]["dead_units"]) == (0, 2)
    assert by_id["block.1"]["params"] == 48 + 32 * 25 + 24 * 33
    assert by_id["linear.0"]["dead_units"] is None


def test_pins_name_the_weight_the_axis_and_the_reason(tmp_path: Path) -> None:
    document = inspect(transformer(tmp_path)).to_json()
    reasons = {(pin["tensor"], pin["axis"]): pin["why"] for pin in document["pinned"]}
    table = next(site["weight"] for site in document["sites"] if site["kind"] == "embedding")
    assert "picks from it by index" in reasons[table, 0]
    assert "normalises over it" in reasons[table, 1]


def test_the_same_file_gives_the_same_ids_and_those_of_optimize(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxprune.pipeline.TIMING_S", 0.01)
    path = transformer(tmp_path)
    ids = [site["id"] for site in inspect(path).to_json()["sites"]]
    assert ids == [site["id"] for site in inspect(path).to_json()["sites"]]
    result = optimize(path, passes=["remove-heads:units=heads.0/1/3"], output=tmp_path / "cut.onnx")
    changed = {change.site for report in result.reports for change in report.changes}
    assert "heads.0" in changed
    assert changed - {"graph"} <= set(ids)
    cut = {site["id"]: site for site in inspect(tmp_path / "cut.onnx").to_json()["sites"]}
    assert list(cut) == ids
    assert (cut["heads.0"]["units"], cut["heads.0"]["original_units"]) == (2, 4)


def test_dead_units_of_a_pinned_site_are_counted_too(tmp_path: Path) -> None:
    """Neurons that are given out as well cannot be cut, dead or not."""
    net = Net()
    x = net.input("x", ["b", "s", WIDTH])
    hidden = net.op("Relu", net.linear(x, WIDTH, 32))
    net.output(net.linear(hidden, 32, WIDTH))
    path = graphs.saved(net.proto(), tmp_path)
    assert [site.id for site in inspect(path).sites if site.kind == "neurons"] == ["neurons.0"]
    net.output(hidden)
    path = graphs.saved(net.proto(), tmp_path)
    pinned = {pin.why for pin in inspect(path).pinned}
    assert f"it is an axis of graph output {hidden!r}" in pinned


def test_a_model_that_no_made_up_input_runs_still_shows_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ModelError("net: no made-up inputs run (no). Give samples with --data, or sizes with --shape.")

    path = transformer(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(inspection, "synthesise", refuse)
        document = inspect(path).to_json()
    assert {site["kind"] for site in document["sites"]} == {"embedding", "linear"}
    assert document["macs"] is None
    assert document["pinned"] == []
    assert any(
        note.startswith("MACs, heads, neurons, channels and blocks unknown: net: ") for note in document["notes"]
    )
    monkeypatch.setattr(inspection, "probes", refuse)
    document = inspect(path).to_json()
    assert document["macs"] > 0
    assert any(note.startswith("heads, neurons, channels and blocks unknown: net: ") for note in document["notes"])


def test_the_table_shows_dead_units_shares_and_reasons(tmp_path: Path) -> None:
    text = StringIO()
    print_inspection(inspect(transformer(tmp_path, dead=True)), Console(file=text, width=200))
    lines = text.getvalue().splitlines()
    heading = next(line.split() for line in lines if line.startswith("site"))
    assert heading[:4] == ["site", "operator", "units", "dead"]
    assert next(line.split()[1:4] for line in lines if line.startswith("neurons.0")) == ["MatMul", "32", "2"]
    assert any(line.startswith("pinned: ") and line.endswith("picks from it by index") for line in lines)


def test_a_looked_at_model_is_not_changed(tmp_path: Path) -> None:
    path = transformer(tmp_path)
    before = path.read_bytes()
    inspect(path)
    assert path.read_bytes() == before
