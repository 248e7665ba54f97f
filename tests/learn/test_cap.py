"""CAP: contrastive terms, the banks that they are of, and snapshots of the model's earlier selves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from onnxprune import optimize, train
from onnxprune.data import load_samples
from onnxprune.errors import DataError, OptionError
from onnxprune.graph import constants, numbers
from onnxprune.learn.contrast import contrast, pooled, vector_tensor
from onnxprune.learn.contrasting import Contrasting
from onnxprune.learn.method import Training
from onnxprune.learn.methods.cap import Cap
from onnxprune.learn.trainee import Trainee, trainee_of
from onnxprune.learn.unit_masks import fewer
from onnxprune.loss import choose_loss
from onnxprune.model import load
from onnxprune.runtime import open_session
from onnxprune.training import settings_of
from tests import graphs

Array = np.ndarray[Any, Any]
_HIDDEN, _CLASSES = 96, 5


def classifier(seed: int = 0) -> Any:
    """X [batch, 64] to logits of five classes, over 96 hidden units."""
    nodes = [
        graphs.node("Gemm", ["x", "first", "first_bias"], ["h"]),
        graphs.node("Relu", ["h"], ["r"]),
        graphs.node("Gemm", ["r", "last", "last_bias"], ["logits"]),
    ]
    held = {
        "first": graphs.weights(64, _HIDDEN, seed=seed),
        "first_bias": graphs.weights(_HIDDEN, seed=seed + 1),
        "last": graphs.weights(_HIDDEN, _CLASSES, seed=seed),
        "last_bias": graphs.weights(_CLASSES, seed=seed + 1),
    }
    inputs, outputs = [graphs.info("x", ("batch", 64))], [graphs.info("logits", ("batch", _CLASSES))]
    return graphs.model(nodes, inputs, outputs, held)


@pytest.fixture(name="place", autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONNXPRUNE_CACHE", str(tmp_path / "cache"))
    graphs.saved(classifier(), tmp_path)
    graphs.saved(classifier(seed=7), tmp_path, "pretrained.onnx")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, _CLASSES, 64)
    x = rng.standard_normal((64, 1, 64)).astype(np.float32) + rng.standard_normal((_CLASSES, 64))[labels][:, None]
    np.savez(tmp_path / "data.npz", x=x.astype(np.float32), labels=labels)
    return tmp_path


def trainee(place: Path) -> Trainee:
    model = load(place / "model.onnx")
    session = open_session(model)
    samples = load_samples(str(place / "data.npz"), session.inputs)
    loss = choose_loss(model, session, samples, "labels")
    return trainee_of(Training(steps=8, batch=16), model, loss, samples, [samples.feeds[0]])


def begun(place: Path, one: Trainee, **options: Any) -> Contrasting:
    procedure = Cap(pretrained=str(place / "pretrained.onnx"), **options).start(one)
    assert isinstance(procedure, Contrasting)
    return procedure


def test_the_terms_are_those_of_a_hand_count() -> None:
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    found = contrast(queries, [bank], torch.tensor([0, 1]), [torch.tensor([2])], torch.tensor([0, 1, 0]), 1.0)
    # The first query's candidates score: itself never, the other query 0, the bank 1 and 0, the further row -1.
    first = math.log(1 + math.e + 1 + math.exp(-1)) - 1
    # The second: the other query 0, itself never, the bank 0 and 1, the further row 0.
    second = math.log(1 + 1 + math.e + 1) - 1
    assert float(found.unsupervised) == pytest.approx((first + second) / 2)
    # Of the first's class: its own row (1) and the further one (-1); of the second's: its own row alone.
    assert found.supervised is not None
    assert float(found.supervised) == pytest.approx(((first + first + 2) / 2 + second) / 2)


def test_aligned_vectors_lose_less_than_shuffled_ones() -> None:
    vectors = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    rows, bank = torch.arange(16), torch.nn.functional.normalize(vectors, dim=-1)
    classes = torch.arange(16)
    none = torch.arange(0)
    aligned = contrast(vectors, [bank], rows, [none], classes, 0.1)
    shuffled = contrast(vectors.roll(1, 0), [bank], rows, [none], classes, 0.1)
    assert float(aligned.unsupervised) < 0.5 * float(shuffled.unsupervised)
    assert aligned.supervised is not None
    assert shuffled.supervised is not None
    assert float(aligned.supervised) < 0.5 * float(shuffled.supervised)


def test_gradients_reach_queries_and_neither_banks_nor_candidates() -> None:
    queries = torch.randn(4, 3, requires_grad=True, generator=torch.Generator().manual_seed(0))
    bank = torch.nn.functional.normalize(torch.randn(4, 3, generator=torch.Generator().manual_seed(1)), dim=-1)
    contrast(queries, [bank], torch.arange(4), [torch.arange(0)], None, 0.1).unsupervised.backward()
    assert queries.grad is not None
    assert bool((queries.grad.abs().sum(1) > 0).all())
    assert bank.grad is None


def test_a_vector_is_what_the_last_product_reads(place: Path) -> None:
    assert vector_tensor(load(place / "model.onnx"), "logits") == "r"
    assert vector_tensor(load(graphs.saved(graphs.residual_blocks(), place, "blocks.onnx")), None) == "y"


def test_tokens_are_pooled_to_their_mean() -> None:
    assert pooled(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), [], {}, "h").tolist() == [[2.0, 3.0]]
    assert pooled(torch.arange(8.0).reshape(1, 2, 2, 2), [], {}, "h").tolist() == [[1.5, 5.5]]


def test_banks_hold_every_training_sample_of_each_model(place: Path) -> None:
    one = trainee(place)
    banks = begun(place, one).banks
    assert list(banks) == ["fine-tuned", "pre-trained"]
    for name, file in (("fine-tuned", "model.onnx"), ("pre-trained", "pretrained.onnx")):
        held = {tensor.name: np.array(numbers(tensor)) for tensor in constants(load(place / file).graph)}
        x = np.concatenate([np.asarray(feeds["x"]) for feeds in one.samples.calibration])
        wanted = np.maximum(x @ held["first"] + held["first_bias"], 0)
        wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
        assert np.allclose(banks[name].numpy(), wanted, atol=1e-5)


def test_snapshots_are_taken_when_due_and_continue_after_an_interruption(place: Path) -> None:
    one = trainee(place)
    procedure = begun(place, one, snapshots=2, begin=0.25, end=0.75, every=1)
    # Four steps of schedule from step 2: one snapshot before each half.
    assert procedure.terms.snapshots == (2, 4)
    for step in range(3):
        procedure.before_step(step)
    assert len(procedure.snapshots) == 1
    # No weight has moved and nothing was masked before: it is the tuned model's own bank.
    assert torch.allclose(procedure.snapshots[0], procedure.banks["fine-tuned"], atol=1e-5)
    other = begun(place, trainee(place), snapshots=2, begin=0.25, end=0.75, every=1)
    other.load(procedure.state())
    for step in range(3, 6):
        other.before_step(step)
    assert len(other.snapshots) == 2
    assert not torch.allclose(other.snapshots[1], other.banks["fine-tuned"], atol=1e-5)


@pytest.mark.parametrize("over", ["movement", "first-order"])
def test_pruning_learns_all_terms_and_ends_with_its_zeros(place: Path, over: str) -> None:
    result = train(
        place / "model.onnx", "cap", data=str(place / "data.npz"), output=place / "out.onnx",
        options=["steps=8", "batch=16", "check=4", "every=2", "sparsity=0.5", f"over={over}",
                 f"pretrained={place / 'pretrained.onnx'}"],
    )  # fmt: skip
    assert {"task", "distill", "contrast", "classes"} <= set(result.history[-1])
    # The head stays dense: products before an output are no encoder's.
    assert result.details["matrices"] == {"first": {"numbers": 64 * _HIDDEN, "zeros": 32 * _HIDDEN}}
    assert result.details["banks"] == ["fine-tuned", "pre-trained", "snapshot before step 1", "snapshot before step 3"]


def test_whole_neurons_go_and_the_passes_cut_them(place: Path) -> None:
    result = train(
        place / "model.onnx", "cap", data=str(place / "data.npz"), output=place / "out.onnx",
        options=["steps=8", "batch=16", "check=4", "every=2", "sparsity=0.5", "over=structured", "pretrained=none"],
    )  # fmt: skip
    assert result.details["units"] == {"neurons.0": {"units": _HIDDEN, "kept": _HIDDEN // 2}}
    last = next(np.array(numbers(one)) for one in constants(load(place / "out.onnx").graph) if one.name == "last")
    assert int((last != 0).any(axis=1).sum()) == _HIDDEN // 2
    optimize(place / "out.onnx", output=place / "cut.onnx", passes=["remove-dead"])
    first = next(one for one in constants(load(place / "cut.onnx").graph) if 64 in one.shape)
    assert sorted(first.shape) == [_HIDDEN // 2, 64]


def test_the_lowest_units_go_over_all_places_and_one_of_each_stays() -> None:
    scores = [np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.2])]
    # Of length one: .27 .53 .80 and .45 .89. Of five units two go.
    kept = fewer(scores, [np.ones(3, np.bool_), np.ones(2, np.bool_)], 0.4)
    assert [mask.tolist() for mask in kept] == [[False, True, True], [False, True]]
    # All but one of each place, though four fifths were asked for.
    kept = fewer(scores, kept, 0.8)
    assert [mask.tolist() for mask in kept] == [[False, False, True], [False, True]]


def test_without_the_pretrained_file_it_says_so(place: Path) -> None:
    with pytest.raises(DataError) as told:
        train(place / "model.onnx", "cap", data=str(place / "data.npz"), output=place / "out.onnx")
    assert str(told.value) == (
        "cap: it needs the file that the model was tuned from. Give --option pretrained=FILE, or pretrained=none to "
        "leave its term out."
    )


def test_a_pretrained_file_of_other_inputs_is_refused(place: Path) -> None:
    other = graphs.saved(graphs.tied_embedding(), place, "other.onnx")
    names = ", ".join(sorted(port.name for port in open_session(other).inputs))
    with pytest.raises(DataError) as told:
        Cap(pretrained=str(other)).start(trainee(place))
    assert str(told.value) == (
        f"{other}: inputs must be those of the model, x, got {names}. Give the model that it was tuned from."
    )


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("tau=0", "cap: tau must be above 0, got 0.0."),
        ("supervised=-1", "cap: supervised must be at least 0, got -1.0."),
        ("over=magic", "cap: over must be one of first-order, movement, structured, got 'magic'."),
    ],
)
def test_a_wrong_option_is_told_in_one_line(option: str, line: str) -> None:
    with pytest.raises(OptionError) as told:
        settings_of("cap", [option])
    assert str(told.value) == line
