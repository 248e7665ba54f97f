"""Gradients of a job's loss: gates against finite differences, relevance conserved, losses by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from onnxprune import learn
from onnxprune.data import Samples
from onnxprune.dimensions import Dimension
from onnxprune.dimensions.masking import mask
from onnxprune.errors import MissingDependencyError
from onnxprune.learn.module import OnnxModule
from onnxprune.learn.objectives import Target, targets_of
from onnxprune.learn.relevance import Propagation
from onnxprune.learn.sensitivity import Sensitivity
from onnxprune.loss import Loss, choose_loss
from onnxprune.model import Model, load
from onnxprune.pipeline import optimize
from onnxprune.runtime import Session, observe_shapes, open_session
from onnxprune.structure import Structure, read_structure
from onnxprune.synthetic import probes
from tests import graphs
from tests.graphs import info, node
from tests.learn.test_module import model_of

Array = np.ndarray[Any, Any]
FIXTURES = Path(__file__).parents[2] / "fixtures"


def subject(
    proto: onnx.ModelProto, count: int = 4, labels: Array | None = None
) -> tuple[Model, Session, Structure, Loss]:
    model = model_of(proto)
    session = open_session(model)
    feeds = probes(model, session)
    structure = read_structure(model, observe_shapes(model, feeds))
    x = np.random.default_rng(0).standard_normal((count, 1, 5, graphs.WIDTH)).astype(np.float32)
    samples = Samples(feeds=[{"x": each} for each in x], labels=labels, source="test")
    return model, session, structure, choose_loss(model, session, samples, None)


def of_kind(structure: Structure, kind: str) -> list[Dimension]:
    return [each for each in structure.dimensions.all if each.kind == kind and each.prunable]


def classifier() -> onnx.ModelProto:
    proto = graphs.layers(2)
    proto.graph.node.append(node("ReduceMean", ["y"], ["logits"], axes=[1], keepdims=0))
    del proto.graph.output[:]
    proto.graph.output.append(info("logits", ("batch", graphs.WIDTH)))
    return proto


def test_a_gate_feels_what_masking_a_little_does() -> None:
    """Michel's score is |dL/dgate|: cross-entropy of the labels, the gate a little under one."""
    labels = np.array([3, 5, 7, 11])
    model, session, structure, loss = subject(classifier(), labels=labels)
    assert loss.kind == "labels"
    (dimension, *_) = of_kind(structure, "heads")
    (found, *_) = Sensitivity(loss, session).gates(model, [dimension])
    module = OnnxModule(model, floating=torch.float64)

    def losses(unit: int, gate: float) -> Array:
        slots = {}
        for consumer in dimension.consumers:
            tensor = next(n for n in model.graph.nodes if n.outputs[0].name == consumer.node).inputs[consumer.input]
            member = next(m for m in dimension.members if (m.tensor, m.axis) == (tensor.name, consumer.axis))

            def scaled(
                x: torch.Tensor, axis: int = consumer.axis, entries: Any = member.elements[unit]
            ) -> torch.Tensor:
                shape = [1] * x.dim()
                shape[axis] = -1
                vector = torch.ones(x.shape[axis], dtype=x.dtype)
                vector[torch.as_tensor(entries)] = gate
                return x * vector.reshape(shape)

            slots[consumer.node, consumer.input] = scaled
        values = []
        with torch.no_grad():
            for feeds, label in zip(loss.feeds, labels, strict=False):
                logits = module(feeds, gates=slots)["logits"]
                values.append(-float(torch.log_softmax(logits, -1)[0, int(label)]))
        return np.array(values)

    step = 1e-4
    slopes = [(losses(unit, 1 + step) - losses(unit, 1 - step)) / (2 * step) for unit in range(dimension.units)]
    np.testing.assert_allclose(found.absolute, [np.abs(each).mean() for each in slopes], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.square, [np.square(each).mean() for each in slopes], rtol=2e-3, atol=1e-7)
    assert (found.elementwise >= found.absolute * 0.999).all()


def test_weights_sum_their_gradients_over_samples() -> None:
    labels = np.array([3, 5, 7, 11])
    model, session, _, loss = subject(classifier(), labels=labels)
    found = Sensitivity(loss, session).weights(model)
    # Scaling all weights of the last product scales the logits: Σ w·g = Σ z·dL/dz over all samples.
    module = OnnxModule(model)
    total = 0.0
    for feeds, label in zip(loss.feeds, labels, strict=False):
        logits = module(feeds)["logits"].detach()
        gradient = torch.softmax(logits, -1)
        gradient[0, int(label)] -= 1
        total += float((logits * gradient).sum())
    head = found["head"]
    assert float((head.value * head.total).sum()) == pytest.approx(total, rel=1e-3)
    assert (head.square >= 0).all()


def test_without_labels_the_curvature_tells_where_the_gradient_is_zero() -> None:
    model, session, structure, loss = subject(graphs.feed_forward(), count=16)
    assert loss.kind == "divergence"
    (dimension,) = of_kind(structure, "neurons")
    (found,) = Sensitivity(loss, session).gates(model, [dimension])
    # What leaving each unit out does to the output, the mean square over samples.
    lost = []
    for unit in range(dimension.units):
        masked = model.copy()
        mask(masked.graph, structure.dimensions, {dimension.index: [unit]})
        other = open_session(masked)
        lost.append(np.mean([np.square(other.run(f)["y"] - session.run(f)["y"]).sum() for f in loss.feeds]))
    assert np.corrcoef(np.sqrt(lost), np.sqrt(found.square))[0, 1] > 0.9


@pytest.mark.parametrize("make", [graphs.feed_forward, graphs.attention, graphs.residual_blocks, classifier])
def test_relevance_is_conserved(make: graphs.Maker) -> None:
    """What arrives at the inputs is what started at the outputs: 1, to float rounding."""
    model = model_of(make())
    x = np.random.default_rng(1).standard_normal((1, 5, graphs.WIDTH)).astype(np.float32)
    session = open_session(model)
    found = Propagation(OnnxModule(model), {"x": x})
    found.run(targets_of(session, {"x": x}, "auto"))
    assert found.absorbed == pytest.approx(1, abs=1e-4)


def test_relevance_of_a_convolution_and_of_embeddings_is_conserved() -> None:
    for name, folder in (("gloss-classifier", "gloss-classifier"), ("fashion-convnet", "fashion-convnet")):
        path = FIXTURES / folder / "model.onnx"
        model, session = load(path), open_session(path)
        with np.load(FIXTURES / name / "samples.npz") as stored:
            feeds = {port.name: stored[port.name][:1] for port in session.inputs}
        found = Propagation(OnnxModule(model), feeds)
        found.run(targets_of(session, feeds, "auto"))
        assert found.absorbed == pytest.approx(1, abs=1e-3)


def test_relevance_of_a_sum_follows_the_contributions() -> None:
    # y = 3 a + b at a = b = 1: three quarters come from a.
    nodes = [node("Mul", ["a", "three"], ["t"]), node("Add", ["t", "b"], ["y"])]
    proto = graphs.model(
        nodes, [info("a", ("n", 1)), info("b", ("n", 1))], [info("y", ("n", 1))], {"three": np.array(3, np.float32)}
    )
    model = model_of(proto)
    one = np.ones((1, 1), np.float32)
    port = open_session(model).outputs[0]
    found = Propagation(OnnxModule(model), {"a": one, "b": one}).run([Target(port, "squares")])
    assert float(found["y", 0]) == pytest.approx(0.75)
    assert float(found["y", 1]) == pytest.approx(0.25)


def test_a_head_without_output_has_no_relevance() -> None:
    proto = graphs.attention()
    for at, tensor in enumerate(proto.graph.initializer):
        if tensor.name in {"w_v", "b_v"}:
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[..., :16] = 0
            proto.graph.initializer[at].CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    model, session, structure, loss = subject(proto)
    (dimension,) = of_kind(structure, "heads")
    (shares,) = Sensitivity(loss, session).relevance(model, [dimension])
    assert shares[0] == 0
    assert shares.sum() == pytest.approx(1)


@pytest.mark.parametrize("score", ["michel", "taylor", "taylor2", "taylor-mixed", "vector", "gradient-output", "lrp"])
def test_units_go_by_every_gradient_score(score: str, tmp_path: Path) -> None:
    """A unit whose output weights are tiny goes first, whatever the score."""
    proto = graphs.feed_forward()
    for at, tensor in enumerate(proto.graph.initializer):
        if tensor.name == "down":
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[[4, 9, 50]] *= 1e-3
            proto.graph.initializer[at].CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    path = graphs.saved(proto, tmp_path)
    x = np.random.default_rng(0).standard_normal((12, 1, 5, graphs.WIDTH)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    result = optimize(
        path, data=str(tmp_path / "data.npz"), output=tmp_path / "out.onnx",
        passes=[f"remove-neurons:keep=91,score={score},refit=no"],
    )  # fmt: skip
    (line,) = [change.what for report in result.reports for change in report.changes if "removed" in change.what]
    gone = set(line.rpartition(": ")[2].split(", "))
    # Both weights of a unit count for the Taylor scores by weights, so that others may have less in all.
    assert {"4", "9", "50"} <= gone or score in {"taylor", "taylor2", "taylor-mixed", "vector"}
    assert result.fidelity.score > 0.9


def test_fisher_weighted_factors_spare_what_the_loss_is_sensitive_to(tmp_path: Path) -> None:
    path = graphs.saved(graphs.feed_forward(), tmp_path)
    x = np.random.default_rng(0).standard_normal((12, 1, 5, graphs.WIDTH)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    results = [
        optimize(
            path, data=str(tmp_path / "data.npz"), output=tmp_path / f"{method}.onnx",
            passes=[f"factor-linear:ratio=0.6,faster=no,method={method}"],
        )
        for method in ("svd", "fwsvd")
    ]  # fmt: skip
    files = [(tmp_path / f"{method}.onnx").read_bytes() for method in ("svd", "fwsvd")]
    assert files[0] != files[1]
    assert all(result.fidelity.score > 0.3 for result in results)


def test_blocks_go_by_the_gradients_of_their_weights(tmp_path: Path) -> None:
    """A block that adds next to nothing has weights whose gradients times themselves are next to nothing."""
    proto = graphs.residual_blocks()
    for at, tensor in enumerate(proto.graph.initializer):
        if tensor.name == "down0":
            values = onnx.numpy_helper.to_array(tensor) * np.float32(1e-3)
            proto.graph.initializer[at].CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    path = graphs.saved(proto, tmp_path)
    x = np.random.default_rng(0).standard_normal((12, 1, 5, graphs.WIDTH)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    result = optimize(
        path, data=str(tmp_path / "data.npz"), output=tmp_path / "out.onnx",
        passes=["remove-blocks:keep=1,score=taylor"],
    )  # fmt: skip
    gone = [change.site for report in result.reports for change in report.changes if "removed" in change.what]
    assert gone == ["block.0"]


def test_without_torch_a_score_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = graphs.saved(graphs.feed_forward(), tmp_path)
    np.savez(tmp_path / "data.npz", x=np.ones((4, 1, 5, graphs.WIDTH), np.float32))
    monkeypatch.setattr(learn, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError) as told:
        optimize(path, data=str(tmp_path / "data.npz"), passes=["remove-neurons:keep=0.5,score=michel"])
    assert str(told.value) == "score=michel needs torch, which is not installed. Run: pip install 'onnxprune[torch]'."
