"""What a student loses, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from onnxprune.learn.objectives import Target, distance, pooled_distance, relative_squares, targets_of
from onnxprune.runtime import Port, open_session
from tests import graphs
from tests.graphs import info, node
from tests.learn.test_module import model_of

FLOAT = np.dtype(np.float32)


def target(kind: str, *, probabilities: bool = False) -> Target:
    return Target(Port("y", FLOAT, (None, None)), kind, -1, probabilities)  # type: ignore[arg-type]


def test_relative_squares_are_the_share_of_variance_that_is_lost() -> None:
    # Teacher 1, 3 of mean 2: variance 1 + 1 = 2; errors 1 and 0: 1/2.
    teacher, student = torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [3.0]])
    assert float(relative_squares(student, teacher, -1, None)) == pytest.approx(0.5)


def test_padded_positions_do_not_count() -> None:
    teacher = torch.tensor([[[1.0], [3.0], [100.0]]])
    student = torch.tensor([[[2.0], [3.0], [-7.0]]])
    where = torch.tensor([[[True], [True], [False]]])
    assert float(relative_squares(student, teacher, -1, where)) == pytest.approx(0.5)


def test_a_lone_position_is_measured_against_its_size() -> None:
    assert float(relative_squares(torch.tensor([[3.0]]), torch.tensor([[2.0]]), -1, None)) == pytest.approx(0.25)


def test_divergence_is_that_of_the_teachers_distribution() -> None:
    # p = (3/4, 1/4), q = (1/2, 1/2): 3/4 ln 3/2 + 1/4 ln 1/2.
    teacher, student = torch.log(torch.tensor([[0.75, 0.25]])), torch.zeros(1, 2)
    wanted = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert float(distance(target("kl"), student, teacher, None, 1.0)) == pytest.approx(wanted, rel=1e-5)


def test_probabilities_are_not_softmaxed_again() -> None:
    teacher, student = torch.tensor([[0.75, 0.25]]), torch.tensor([[0.5, 0.5]])
    wanted = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    found = distance(target("kl", probabilities=True), student, teacher, None, 1.0)
    assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_temperature_flattens_both_and_keeps_the_size_of_gradients() -> None:
    # At a high temperature T²·KL tends to half the mean square of centred differences over the classes.
    teacher, student = torch.tensor([[1.0, -1.0]]), torch.tensor([[0.0, 0.0]])
    assert float(distance(target("kl"), student, teacher, None, 30.0)) == pytest.approx(0.5, rel=1e-2)


def test_cosine_does_not_see_length() -> None:
    teacher, student = torch.tensor([[1.0, 0.0]]), torch.tensor([[5.0, 0.0]])
    assert float(distance(target("cosine"), student, teacher, None, 1.0)) == pytest.approx(0)


def test_pooling_leaves_padding_out() -> None:
    teacher = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [9.0, -9.0]]])
    student = torch.tensor([[[2.0, 2.0], [0.0, 0.0], [7.0, 3.0]]])
    where = torch.tensor([[[True], [True], [False]]])
    # Means (1/2, 1/2) and (1, 1) point the same way.
    assert float(pooled_distance(student, teacher, where)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("name", "kind"), [("logits", "kl"), ("sentence_embedding", "squares"), ("y", "squares")])
def test_an_output_is_compared_by_its_role(name: str, kind: str) -> None:
    nodes = [node("MatMul", ["x", "w"], [name])]
    proto = graphs.model(nodes, [info("x", ("n", 4))], [info(name, ("n", 3))], {"w": graphs.weights(4, 3)})
    session = open_session(model_of(proto))
    found = targets_of(session, {"x": graphs.weights(2, 4)}, "auto")
    assert [each.kind for each in found] == [kind]
    assert [each.kind for each in targets_of(session, {"x": graphs.weights(2, 4)}, "cosine")] == ["cosine"]


def test_what_is_a_softmax_already_is_compared_as_one() -> None:
    nodes = [node("Softmax", ["x"], ["y"])]
    proto = graphs.model(nodes, [info("x", ("n", 4))], [info("y", ("n", 4))])
    (found,) = targets_of(open_session(model_of(proto)), {"x": graphs.weights(2, 4)}, "auto")
    assert (found.kind, found.probabilities) == ("kl", True)
