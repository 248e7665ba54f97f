"""Heads through the whole pipeline: grouped queries, caches that are inputs and outputs, replay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune import pipeline
from onnxprune.comparison import validate
from onnxprune.inspection import inspect
from onnxprune.interface import interface_of
from onnxprune.model import load
from onnxprune.result import Result
from onnxprune.runtime import open_session
from tests import graphs
from tests.building import Net
from tests.equality import relative_error

WIDTH, HEADS, SIZE = 24, 4, 8


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "TIMING_S", 0.01)


def decoder(folder: Path, *, groups: int = HEADS, layers: int = 2) -> Path:
    """A decoder that takes and gives key-value caches [batch, groups, past, size], with grouped queries."""
    net = Net()
    x = net.input("x", ["b", "s", WIDTH])
    past = [[net.input(f"past.{layer}.{part}", ["b", groups, "p", SIZE]) for part in ("key", "value")]
            for layer in range(layers)]  # fmt: skip
    present = []
    for layer in range(layers):
        h = net.op("LayerNormalization", x, net.weight(WIDTH), net.weight(WIDTH))
        q, k, v = (
            net.op("Transpose", net.reshape(net.linear(h, WIDTH, n * SIZE), 0, 0, n, SIZE), perm=[0, 2, 1, 3])
            for n in (HEADS, groups, groups)
        )
        k, v = (net.op("Concat", held, new, axis=2) for held, new in zip(past[layer], (k, v), strict=True))
        present += [(f"present.{layer}.key", k), (f"present.{layer}.value", v)]
        if groups < HEADS:
            k, v = (repeated(net, each, groups) for each in (k, v))
        scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
        weights = net.op("Softmax", net.op("Mul", scores, net.constant(np.float32(SIZE**-0.5))), axis=-1)
        joined = net.reshape(net.op("Transpose", net.op("MatMul", weights, v), perm=[0, 2, 1, 3]), 0, 0, HEADS * SIZE)
        x = net.op("Add", x, net.linear(joined, HEADS * SIZE, WIDTH))
    net.output(x)
    for name, tensor in present:
        net.nodes.append(onnx.helper.make_node("Identity", [tensor], [name]))
        net.output(name)
    return graphs.saved(net.proto(), folder)


def repeated(net: Net, x: str, groups: int) -> str:
    """[b, groups, t, size] to [b, heads, t, size], each group as often as it has queries."""
    times = HEADS // groups
    shape = net.op("Shape", x)
    parts = [net.op("Gather", shape, net.constant(np.array([at]))) for at in range(4)]
    many = net.op("Concat", *parts[:2], net.constant(np.array([times])), *parts[2:], axis=0)
    wide = net.op("Expand", net.op("Unsqueeze", x, net.constant(np.array([2]))), many)
    whole = net.op("Concat", parts[0], net.constant(np.array([HEADS])), *parts[2:], axis=0)
    return str(net.op("Reshape", wide, whole))


def cut(path: Path, *passes: str) -> Result:
    return pipeline.optimize(path, output=path.with_name("cut.onnx"), passes=passes)


def words(result: Result) -> list[str]:
    return [change.what for report in result.reports for change in report.changes if "nodes became" not in change.what]


@pytest.mark.parametrize("groups", [4, 2])
def test_caches_pin_their_heads_unless_asked(tmp_path: Path, groups: int) -> None:
    path = decoder(tmp_path, groups=groups)
    result = cut(path, "remove-heads:keep=0.5,score=magnitude")
    assert not words(result)
    whys = [skip.why for report in result.reports for skip in report.skips if "axis" in skip.why]
    assert [why.rpartition(".")[0] for why in whys] == [f"it is an axis of graph input 'past.{n}" for n in range(2)]


def test_queries_that_share_a_key_go_only_where_they_are_named(tmp_path: Path) -> None:
    """A share is one of whole groups; each group can lose the same one of its queries, which no cache sees."""
    path = decoder(tmp_path, groups=2)
    result = cut(path, "remove-heads:keep=0.5,score=magnitude,refit=no,cut_interface=yes")
    assert [what for what in words(result) if "heads removed" in what and what.startswith("1 of 2")]
    skips = {skip.site: skip.why for report in result.reports for skip in report.skips}
    why = "queries within groups: whole groups go, unless it is named"
    assert skips == {"heads.1": why, "heads.3": why}
    named = cut(path, "remove-heads:keep=0.5,score=magnitude,refit=no,sites=heads.1")
    assert [what.partition(":")[0] for what in words(named)] == ["1 of 2 heads removed"]


@pytest.mark.parametrize(("groups", "gone"), [(4, [1, 2]), (2, [0])])
def test_caches_are_cut_with_their_heads_where_asked(tmp_path: Path, groups: int, gone: list[int]) -> None:
    """Every step: proposed, judged against the original's caches, saved, timed, replayed, compared."""
    path = decoder(tmp_path, groups=groups)
    # Queries within a group are sites of their own.
    sites = ["heads.0", "heads.1" if groups == HEADS else "heads.2"]
    units = "+".join(f"{site}/{'/'.join(map(str, gone))}" for site in sites)
    result = cut(path, f"remove-heads:cut_interface=yes,refit=no,units={units}")
    kept = groups - len(gone)
    assert not [skip for report in result.reports for skip in report.reverted]
    interface = [what for what in words(result) if what.startswith("the interface changed")]
    caches = [f"{layer}.{part}" for layer in range(2) for part in ("key", "value")]
    names = [f"{when}.{cache}" for when in ("past", "present") for cache in caches]
    assert interface == [f"the interface changed: axis 1 of {name!r} from {groups} to {kept}" for name in names]
    smaller = open_session(result.output)
    assert [port.shape[1] for port in (*smaller.inputs[1:], *smaller.outputs[1:])] == [kept] * 8
    pipeline.apply(path, result.plan, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == result.output.read_bytes()
    assert 0 < result.fidelity.score < 1
    assert validate(path, result.output).fidelity.why is None


def test_the_cut_decoder_equals_the_original_with_heads_masked(tmp_path: Path) -> None:
    """Rows of the output weights are zeroed in the original; a feed of four heads of cache gives the same."""
    path = decoder(tmp_path)
    result = cut(path, "remove-heads:cut_interface=yes,refit=no,units=heads.0/1/2")
    proto = onnx.load(path)
    out = next(each for each in proto.graph.initializer if list(each.dims) == [HEADS * SIZE, WIDTH])
    values = onnx.numpy_helper.to_array(out).copy()
    values[SIZE : 3 * SIZE] = 0
    out.CopyFrom(onnx.numpy_helper.from_array(values, out.name))
    silent = graphs.saved(proto, tmp_path, "silent.onnx")
    numbers = np.random.default_rng(0)
    feeds = {
        port.name: numbers.standard_normal(
            [3 if size == "b" else 5 if size == "s" else 6 if size == "p" else size for size in port.shape]  # type: ignore[misc]
        ).astype(np.float32)
        for port in open_session(path).inputs
    }
    smaller = open_session(result.output)
    wanted = smaller.interface.fitted(open_session(silent).run(feeds))
    assert relative_error(smaller.run(feeds), wanted) <= 1e-5
    fitting = smaller.interface.fitted(feeds)
    assert fitting["past.0.key"].shape == (3, 2, 6, SIZE)
    assert relative_error(smaller.run(fitting), wanted) <= 1e-5


def test_later_passes_and_later_runs_go_on_from_a_cut_interface(tmp_path: Path) -> None:
    path = decoder(tmp_path)
    spec = "remove-heads:keep=0.75,score=magnitude,refit=no,cut_interface=yes"
    first = cut(path, spec, "remove-dead", "sparse-int8:linears=stored")
    assert not [skip for report in first.reports for skip in report.reverted]
    # Within one run a second cut goes on from the first.
    assert any("from 3 to 2" in what for what in words(cut(path, spec, spec.replace("0.75", "0.5"))))
    first = cut(path, spec)
    kept = tmp_path / "kept.onnx"
    first.output.rename(kept)
    again = cut(kept, spec)
    assert not words(again)
    further = cut(kept, spec.replace("0.75", "0.5"))
    assert any("from 3 to 2" in what for what in words(further))
    # The original's feeds still fit, through both cuts.
    assert len(interface_of(load(further.output).metadata).cuts) == 16
    assert validate(path, further.output).fidelity.why is None
    sites = {site.id: site for site in inspect(further.output).sites}
    assert (sites["heads.0"].units, sites["heads.0"].original_units) == (2, 4)
