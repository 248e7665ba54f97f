"""One plan for two targets: what one of them refuses, or is slower with, does not stand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune import optimize
from onnxprune.errors import TargetError
from onnxprune.result import Result
from onnxprune.runtime import Feeds
from onnxprune.targets.timing import Latency, Ratio, Timed
from tests.building import Net
from tests.search.working import WorkTarget, work_ms


class Refusing(WorkTarget):
    """Runs no integer products."""

    def time(self, paths: Sequence[Path], feeds: Feeds, *, budget_s: float = 4.0) -> tuple[Timed, ...]:
        """Milliseconds by work, where there are no integer products."""
        for at, path in enumerate(paths):
            if integers(path):
                raise TargetError(f"{path.name}: refusing:1 has no MatMulInteger", model=at)
        return super().time(paths, feeds, budget_s=budget_s)


class Contrary(WorkTarget):
    """Takes the longer the fewer numbers there are."""

    def time(self, paths: Sequence[Path], feeds: Feeds, *, budget_s: float = 4.0) -> tuple[Timed, ...]:
        """The inverse of the work."""
        del feeds, budget_s
        found = [1 / work_ms(path) for path in paths]
        ratios = [Ratio(found[0] / ms, found[0] / ms, found[0] / ms, 9) for ms in found]
        return tuple(
            Timed(name=path.name, load_ms=1.0, latency_ms=Latency(ms, ms, ms), speedup=ratio)
            for path, ms, ratio in zip(paths, found, ratios, strict=True)
        )


def integers(path: Path) -> bool:
    return any(node.op_type == "MatMulInteger" for node in onnx.load(path).graph.node)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    net = Net(seed=1)
    x = net.input("x", ["b", 64])
    net.output(net.linear(net.op("Relu", net.linear(x, 64, 128)), 128, 64))
    onnx.save(net.proto(), tmp_path / "model.onnx")
    random = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", x=random.standard_normal((24, 1, 64)).astype(np.float32))
    return tmp_path / "model.onnx"


def optimized(model: Path, monkeypatch: pytest.MonkeyPatch, *places: WorkTarget, passes: Sequence[str] = ()) -> Result:
    known = {place.name: place for place in places}
    monkeypatch.setattr("onnxprune.measurement.parse_target", known.__getitem__)
    data = str(model.with_name("data.npz"))
    return optimize(model, data=data, target=list(known), passes=passes, fidelity="off", fresh=True)


def test_integer_products_stand_where_every_target_takes_them(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = optimized(model, monkeypatch, WorkTarget(), WorkTarget(name="other:1"))
    assert integers(result.output)
    assert [each.target for each in result.measurements] == ["work:1", "other:1"]


def test_what_one_target_refuses_is_given_up_with_the_reason(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = optimized(model, monkeypatch, WorkTarget(), Refusing(name="refusing:1"))
    assert not integers(result.output)
    why = [skip.why for report in result.reports for skip in report.reverted]
    assert "integer products are no choice here: a target refuses the model with it" in why
    assert "a form was given up: model.onnx: refusing:1 has no MatMulInteger" in result.notes
    assert work_ms(result.output) <= work_ms(model)


def test_a_pass_that_slows_one_target_is_taken_back(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = ["remove-neurons:keep=0.5"]
    alone = optimized(model, monkeypatch, WorkTarget(), passes=passes)
    assert any(report.changes for report in alone.reports[1:])
    both = optimized(model, monkeypatch, WorkTarget(), Contrary(name="contrary:1"), passes=passes)
    assert not any(report.changes for report in both.reports[1:])
    why = [skip.why for report in both.reports for skip in report.reverted]
    # Half of the neurons, so that a run takes about twice as long there.
    assert set(why) == {"a run takes 2.00 x as long with it"}
