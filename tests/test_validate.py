"""Two models side by side: figures from sessions, and the first tensor where they part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.divergence import first_divergence
from onnxprune.fidelity import compare
from onnxprune.model import Model, load
from onnxprune.runtime import Feeds, observe, open_session

FEEDS: Feeds = {"x": np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)}


def chain(path: Path) -> Model:
    """Floats x → Linear → Relu → Linear → Softmax; beside it a label."""
    random = np.random.default_rng(1)
    weights = {
        "w1": random.standard_normal((8, 16)),
        "b1": random.standard_normal(16),
        "w2": random.standard_normal((16, 4)),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["product1"], name="first"),
        helper.make_node("Add", ["product1", "b1"], ["sum1"], name="shift"),
        helper.make_node("Relu", ["sum1"], ["active"], name="bend"),
        helper.make_node("MatMul", ["active", "w2"], ["product2"], name="second"),
        helper.make_node("Softmax", ["product2"], ["y"], name="share", axis=-1),
        helper.make_node("ArgMax", ["product2"], ["label"], name="choose", axis=-1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4]),
            helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
        ],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return load(path)


def edited(model: Model, edit: Callable[[gs.Graph], None]) -> Model:
    copy = model.copy()
    edit(copy.graph)
    return copy


def constant(graph: gs.Graph, node: str, values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
    """Put another weight into a node."""
    found = next(each for each in graph.nodes if each.name == node)
    found.inputs[1] = gs.Constant(f"{found.inputs[1].name}.new", values)


def weight(model: Model, node: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    values: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = (
        next(each for each in model.graph.nodes if each.name == node).inputs[1].values
    )
    return values.copy()


def test_sessions_tell_which_axes_are_dynamic(tmp_path: Path) -> None:
    model = chain(tmp_path / "m.onnx")
    other = edited(model, lambda graph: constant(graph, "second", weight(model, "second") * np.float32(1.01)))
    samples = [{"x": np.random.default_rng(seed).standard_normal((3, 8)).astype(np.float32)} for seed in range(5)]
    reference, candidate = open_session(model), open_session(other)
    result = compare(reference, candidate, samples)
    y = np.concatenate([reference.run(feeds)["y"] for feeds in samples]).astype(np.float64)
    z = np.concatenate([candidate.run(feeds)["y"] for feeds in samples]).astype(np.float64)
    assert result.score == pytest.approx(1 - ((y - z) ** 2).sum() / ((y - y.mean(0)) ** 2).sum())
    assert 0.9 < result.score < 1
    assert (result.outputs["label"].kind, result.outputs["label"].top1_agreement) == ("integer", 1)
    before = [reference.run(feeds) for feeds in samples]
    assert compare(before, candidate, samples, inputs=reference.inputs, outputs=reference.outputs) == result


def test_a_copy_does_not_diverge(tmp_path: Path) -> None:
    model = chain(tmp_path / "m.onnx")
    assert first_divergence(model, model.copy(), FEEDS) is None


@pytest.mark.parametrize("chunk_bytes", [2**28, 1])
def test_a_fault_planted_in_the_middle_is_found(tmp_path: Path, chunk_bytes: int) -> None:
    model = chain(tmp_path / "m.onnx")
    wrong = edited(model, lambda graph: constant(graph, "shift", weight(model, "shift") + np.float32(0.5)))
    found = first_divergence(model, wrong, FEEDS, chunk_bytes=chunk_bytes)
    assert found is not None
    assert (found.tensor, found.node, found.op) == ("sum1", "shift", "Add")
    # What feeds it is the product, which is right.
    assert found.feeding == {"product1": 0.0}
    assert found.max_abs == pytest.approx(0.5, rel=1e-5)
    assert found.relative_l2 > found.tolerance == 1e-3
    assert found.reshaped == ()


def test_a_tolerance_lets_small_errors_pass(tmp_path: Path) -> None:
    model = chain(tmp_path / "m.onnx")
    other = edited(model, lambda graph: constant(graph, "second", weight(model, "second") * np.float32(1.01)))
    assert first_divergence(model, other, FEEDS, tolerance=0.5) is None
    found = first_divergence(model, other, FEEDS)
    assert found is not None
    assert found.tensor == "product2"
    assert found.relative_l2 == pytest.approx(0.01, rel=1e-3)


def test_the_nodes_may_stand_in_any_order(tmp_path: Path) -> None:
    model = chain(tmp_path / "m.onnx")
    wrong = edited(model, lambda graph: constant(graph, "first", weight(model, "first") * np.float32(2)))
    shuffled = edited(model, lambda graph: graph.nodes.reverse())
    found = first_divergence(shuffled, wrong, FEEDS)
    assert found is not None
    assert (found.tensor, found.feeding) == ("product1", {"x": 0.0})


def test_tensors_that_were_cut_smaller_are_named_and_passed_over(tmp_path: Path) -> None:
    model = chain(tmp_path / "m.onnx")

    def cut(graph: gs.Graph) -> None:
        # Half of the hidden units: three tensors shrink, and the product of what is left is wrong.
        constant(graph, "first", weight(model, "first")[:, :8])
        constant(graph, "shift", weight(model, "shift")[:8])
        constant(graph, "second", weight(model, "second")[:8])

    found = first_divergence(model, edited(model, cut), FEEDS)
    assert found is not None
    assert found.tensor == "product2"
    assert found.reshaped == ("product1", "sum1", "active")
    assert found.feeding == {"x": 0.0}


def test_nan_diverges_without_a_warning(tmp_path: Path) -> None:
    model = chain(tmp_path / "m.onnx")
    wrong = edited(model, lambda graph: constant(graph, "shift", np.full(16, np.nan, np.float32)))
    found = first_divergence(model, wrong, FEEDS)
    assert found is not None
    assert (found.tensor, found.relative_l2) == ("sum1", np.inf)


def centred(path: Path, scale: float) -> Model:
    """A model of y = x + (x·scale / scale - x), where the bracket is nothing but rounding."""
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["large"], name="grow"),
        helper.make_node("Div", ["large", "scale"], ["again"], name="shrink"),
        helper.make_node("Sub", ["again", "x"], ["nothing"], name="cancel"),
        helper.make_node("Add", ["x", "nothing"], ["y"], name="restore"),
    ]
    graph = helper.make_graph(
        nodes,
        "centred",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8])],
        [numpy_helper.from_array(np.array(scale, np.float32), "scale")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return load(path)


def test_rounding_of_a_difference_is_no_divergence(tmp_path: Path) -> None:
    # Division by 3 after the product with 3 rounds otherwise than by 7: "nothing" differs wholly, at 1e-8 of x.
    reference = centred(tmp_path / "three.onnx", 3)
    candidate = centred(tmp_path / "seven.onnx", 7)

    def rename(graph: gs.Graph) -> None:
        graph.nodes[0].outputs[0].name = "larger"

    assert first_divergence(reference, edited(candidate, rename), FEEDS) is None


def test_tensors_are_held_in_chunks_of_the_size_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = chain(tmp_path / "m.onnx")
    held: list[int] = []

    def counted(model: Model, feeds: Feeds, names: list[str]) -> dict[str, Any]:
        held.append(len(names))
        return observe(model, feeds, names)

    monkeypatch.setattr("onnxprune.divergence.observe", counted)
    # Both models' bytes: product1, sum1 and active 2·4·2·16 = 256 each; product2 and y 64 each; label 16.
    assert first_divergence(model, model, FEEDS, chunk_bytes=512) is None
    assert held == [2, 2, 4, 4]


def test_sequences_on_the_way_are_passed_over(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("SplitToSequence", ["x"], ["parts"], name="part", axis=1, keepdims=1),
        helper.make_node("ConcatFromSequence", ["parts"], ["joined"], name="join", axis=1),
        helper.make_node("Neg", ["joined"], ["y"], name="turn"),
    ]
    graph = helper.make_graph(
        nodes,
        "sequence",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8])],
    )
    path = tmp_path / "sequence.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    model = load(path)

    def spoil(graph: gs.Graph) -> None:
        graph.nodes[-1].op = "Exp"

    assert first_divergence(model, model, FEEDS) is None
    found = first_divergence(model, edited(model, spoil), FEEDS)
    assert found is not None
    assert (found.node, found.feeding) == ("turn", {"joined": 0.0})
