"""Outliers of activations move into weights: outputs stay, and 8 bits hold what is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxprune.calibration import collect
from onnxprune.errors import DataError, OptionError
from onnxprune.model import Model, load, save
from onnxprune.passes import SmoothActivations, SparseInt8
from onnxprune.protocol import Context, Proposal
from onnxprune.sites import find_sites
from tests import graphs
from tests.graphs import info, node, weights

WIDTH = graphs.WIDTH


def spelled_out(norm: str, *, shared: bool = False, extra: str = "") -> onnx.ModelProto:
    """Two linears behind a norm, the second one behind a second norm with the same vectors where they are shared."""
    held: dict[str, Any] = {"g": 1 + 0.1 * weights(WIDTH), "b": weights(WIDTH, seed=1), "w": weights(WIDTH, 48)}
    held |= {"v": weights(32, WIDTH, seed=2), "u": weights(48, WIDTH, seed=3), "two": np.array(2, np.float32)}
    held |= {"eps": np.array(1e-5, np.float32)}

    def normalised(x: str, y: str) -> list[onnx.NodeProto]:
        if norm == "LayerNormalization":
            return [node(norm, [x, "g", "b"], [y])]
        moments = [
            node("Pow", [x, "two"], [f"{y}.p"]),
            node("ReduceMean", [f"{y}.p"], [f"{y}.m"], axes=[-1]),
            node("Add", [f"{y}.m", "eps"], [f"{y}.e"]),
            node("Sqrt", [f"{y}.e"], [f"{y}.r"]),
            node("Div", [x, f"{y}.r"], [f"{y}.z"]),
        ]
        if norm == "gain":
            return [*moments, node("Mul", ["g", f"{y}.z"], [y])]
        return [*moments, node("Mul", [f"{y}.z", "g"], [f"{y}.s"]), node("Add", [f"{y}.s", "b"], [y])]

    nodes = [*normalised("x", "n"), node("MatMul", ["n", "w"], ["one"])]
    nodes.append(node("Gemm", ["n", "v"], ["other"], transB=1))
    if shared:
        nodes += [
            node("MatMul", ["one", "u"], ["back"]),
            *normalised("back", "n2"),
            node("MatMul", ["n2", "w2"], ["z"]),
        ]
        held["w2"] = weights(WIDTH, 48, seed=4)
    nodes += [node("Tanh", ["n"], ["extra"])] if extra else []
    outputs = [info("one", ("batch", 48)), info("other", ("batch", 32))]
    outputs += [info("z", ("batch", 48))] if shared else []
    outputs += [info("extra", ("batch", WIDTH))] if extra else []
    return graphs.model(nodes, [info("x", ("batch", WIDTH))], outputs, held, opset=17)


def outlying(proto: onnx.ModelProto, channel: int = 5, by: float = 200.0) -> onnx.ModelProto:
    """The same function with one channel of the norm much larger, and its weights much smaller."""
    scale: dict[str, Callable[[Any], Any]] = {
        "g": lambda a: a * by,
        "b": lambda a: a * by,
        "w": lambda a: a / by,
        "v": lambda a: a / by,
    }
    for at, tensor in enumerate(proto.graph.initializer):
        if tensor.name in scale:
            array = numpy_helper.to_array(tensor).copy()
            place = (slice(None), channel) if tensor.name == "v" else channel
            array[place] = scale[tensor.name](array[place])
            proto.graph.initializer[at].CopyFrom(numpy_helper.from_array(array, tensor.name))
    return proto


def feeds() -> list[dict[str, Any]]:
    return [{"x": np.random.default_rng(at).standard_normal((16, WIDTH)).astype(np.float32)} for at in range(3)]


def proposed(model: Model, one: Any) -> Proposal:
    sites = find_sites(model)
    needs = one.needs(model, sites)
    statistics = collect(model, needs, feeds()) if needs.tensors else None
    proposal: Proposal = one.propose(model, sites, Context(statistics=statistics))
    return proposal


def applied(path: Path, *passes: Any) -> Path:
    model = load(path)
    for one in passes:
        model, _ = one.apply(model, proposed(model, one).edits)
    after = path.with_name("after.onnx")
    save(model, after)
    return after


def errors(before: Path, after: Path) -> float:
    """Root mean square of what outputs moved by, as a share of their own."""
    feed = {"x": np.random.default_rng(9).standard_normal((64, WIDTH)).astype(np.float32)}
    expected, got = (graphs.outputs_of(path, feed) for path in (before, after))
    return max(float(np.sqrt(np.mean((got[k] - v) ** 2) / np.mean(v**2))) for k, v in expected.items())


@pytest.mark.parametrize("norm", ["LayerNormalization", "gain", "gain and bias"])
@pytest.mark.parametrize("shared", [False, True])
def test_outliers_cost_eight_bits_much_and_smoothing_gives_it_back(tmp_path: Path, norm: str, shared: bool) -> None:
    path = graphs.saved(outlying(spelled_out(norm, shared=shared)), tmp_path)
    smooth = SmoothActivations()
    # A handful of products and quotients, each rounded to 24 bits.
    assert 0 < errors(path, applied(path, smooth)) < 2e-6
    rough = errors(path, applied(path, SparseInt8()))
    smoothed = errors(path, applied(path, smooth, SparseInt8()))
    assert smoothed < 0.2 * rough
    assert smoothed < 0.05


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_a_second_run_changes_nothing(tmp_path: Path, alpha: float) -> None:
    path = graphs.saved(outlying(spelled_out("LayerNormalization")), tmp_path)
    one = SmoothActivations(alpha=alpha)
    proposal = proposed(load(applied(path, one)), one)
    assert not proposal.edits
    assert {skip.why for skip in proposal.skips} == {"its channels are as large as each other already"}


def test_what_others_read_is_left_alone_with_the_reason(tmp_path: Path) -> None:
    path = graphs.saved(spelled_out("LayerNormalization", extra="Tanh"), tmp_path)
    proposal = proposed(load(path), SmoothActivations())
    assert not proposal.edits
    assert {skip.site: skip.why for skip in proposal.skips} == {
        "n": "also read by Tanh 'extra', which wants it as it is"
    }


def test_what_no_norm_gives_out_is_left_alone_with_the_reason(tmp_path: Path) -> None:
    proposal = proposed(load(graphs.saved(graphs.feed_forward(), tmp_path)), SmoothActivations())
    assert {skip.why for skip in proposal.skips} == {"no norm gives it out"}


def test_without_samples_it_says_what_to_do(tmp_path: Path) -> None:
    model = load(graphs.saved(spelled_out("gain"), tmp_path))
    with pytest.raises(DataError) as error:
        SmoothActivations().propose(model, find_sites(model), Context())
    assert str(error.value) == (
        "smooth-activations needs sample inputs. Give --data, or --allow-synthetic to use made-up ones."
    )


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(OptionError) as error:
        SmoothActivations(alpha=1.5)
    assert str(error.value) == "smooth-activations: alpha must be in [0, 1], got 1.5."


def test_the_report_says_what_moved(tmp_path: Path) -> None:
    model = load(graphs.saved(outlying(spelled_out("gain")), tmp_path))
    one = SmoothActivations()
    _, changes = one.apply(model, proposed(model, one).edits)
    assert len(changes) == 1
    assert changes[0].what.startswith("64 channels divided by ")
    assert changes[0].what.endswith(", and multiplied in 2 linears")
