"""Losses by hand, and which one is chosen."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxprune import optimize
from onnxprune.data import Samples
from onnxprune.errors import DataError, OptionError
from onnxprune.loss import Loss, choose_loss, few
from onnxprune.model import load
from onnxprune.runtime import open_session
from tests import graphs

Array = np.ndarray[Any, Any]
TABLE = np.array([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0], [1.0, 1.0, 0.0]], np.float32)


def table(values: Array = TABLE, *, mask: bool = False, seen: bool = False) -> onnx.ModelProto:
    """Each token's row of a table is what comes next; `seen` adds the mean over all tokens, later ones included."""
    nodes = [graphs.node("Gather", ["table", "ids"], ["rows"])]
    if seen:
        nodes.append(graphs.node("ReduceMean", ["rows"], ["mean"], axes=[1], keepdims=1))
        nodes.append(graphs.node("Add", ["rows", "mean"], ["mixed"]))
    inputs = [graphs.info("ids", ("batch", "sequence"), graphs.INT64)]
    last = "mixed" if seen else "rows"
    if mask:
        inputs.append(graphs.info("attention_mask", ("batch", "sequence"), graphs.INT64))
        nodes += [
            graphs.node("Cast", ["attention_mask"], ["real"], to=graphs.FLOAT),
            graphs.node("Unsqueeze", ["real", "axis"], ["wide"]),
            graphs.node("Mul", [last, "wide"], ["logits"]),
        ]
    else:
        nodes.append(graphs.node("Identity", [last], ["logits"]))
    outputs = [graphs.info("logits", ("batch", "sequence", 3))]
    constants = {"table": values} | ({"axis": np.array([2])} if mask else {})
    return graphs.model(nodes, inputs, outputs, constants)


def classes(*, softmax: bool = False) -> onnx.ModelProto:
    nodes = [graphs.node("MatMul", ["x", "w"], ["z" if softmax else "y"])]
    if softmax:
        nodes.append(graphs.node("Softmax", ["z"], ["y"], axis=-1))
    shape = [graphs.info("x", ("batch", 3))], [graphs.info("y", ("batch", 3))]
    return graphs.model(nodes, *shape, {"w": np.eye(3, dtype=np.float32)})


def loss_of(
    proto: onnx.ModelProto, folder: Path, feeds: list[dict[str, Array]], asked: str | None, labels: Array | None = None
) -> Loss:
    path = graphs.saved(proto, folder)
    samples = Samples(feeds=tuple(feeds), labels=labels, source="samples.npz")
    return choose_loss(load(path), open_session(path), samples, asked)


def model_of(proto: onnx.ModelProto, folder: Path) -> Any:
    return load(graphs.saved(proto, folder, "candidate.onnx"))


def log_softmax(row: Array) -> Array:
    wide = row.astype(np.float64)
    logarithms: Array = wide - np.log(np.exp(wide).sum())
    return logarithms


def ids(*tokens: int) -> dict[str, Array]:
    return {"ids": np.array([tokens])}


def test_next_token_loss_is_the_cross_entropy_of_each_token_after_the_first(tmp_path: Path) -> None:
    """Tokens 0 1 2: -log p(1 | 0) and -log p(2 | 1), averaged."""
    measure = loss_of(table(), tmp_path, [ids(0, 1, 2)], "next-token")
    expected = -(log_softmax(TABLE[0])[1] + log_softmax(TABLE[1])[2]) / 2
    assert measure(model_of(table(), tmp_path)) == pytest.approx(expected, rel=1e-6)
    assert measure.what == "cross-entropy of the next token of 'ids' by output 'logits', in nats"


def test_every_token_counts_once_whatever_the_length_of_its_sample(tmp_path: Path) -> None:
    measure = loss_of(table(), tmp_path, [ids(0, 1), ids(1, 2, 2, 2)], "next-token")
    terms = [log_softmax(TABLE[a])[b] for a, b in ((0, 1), (1, 2), (2, 2), (2, 2))]
    assert measure(model_of(table(), tmp_path)) == pytest.approx(-sum(terms) / 4, rel=1e-6)


def test_padded_positions_are_left_out_of_the_next_token_loss(tmp_path: Path) -> None:
    """0 1 2 and one padded place on either side: only 1 after 0 and 2 after 1 count."""
    feeds = {"ids": np.array([[2, 0, 1, 2, 0]]), "attention_mask": np.array([[0, 1, 1, 1, 0]])}
    measure = loss_of(table(mask=True), tmp_path, [feeds], "next-token")
    expected = -(log_softmax(TABLE[0])[1] + log_softmax(TABLE[1])[2]) / 2
    assert measure(model_of(table(mask=True), tmp_path)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("softmax", [False, True], ids=["logits", "probabilities"])
def test_label_loss_is_the_cross_entropy_of_the_labels(softmax: bool, tmp_path: Path) -> None:
    rows = [np.array([[1.0, 0.0, 0.5]], np.float32), np.array([[0.0, 2.0, 0.0]], np.float32)]
    measure = loss_of(classes(softmax=softmax), tmp_path, [{"x": row} for row in rows], None, np.array([2, 1]))
    assert measure.kind == "labels"
    expected = -(log_softmax(rows[0][0])[2] + log_softmax(rows[1][0])[1]) / 2
    assert measure(model_of(classes(softmax=softmax), tmp_path)) == pytest.approx(expected, rel=1e-6)


def test_negative_labels_mark_places_without_one(tmp_path: Path) -> None:
    """A label for each token, of which the second has none, as -100 says."""
    measure = loss_of(table(), tmp_path, [ids(0, 1, 2)], "labels", np.array([[1, -100, 0]]))
    expected = -(log_softmax(TABLE[0])[1] + log_softmax(TABLE[2])[0]) / 2
    assert measure(model_of(table(), tmp_path)) == pytest.approx(expected, rel=1e-6)


def test_divergence_is_nothing_for_the_original_and_the_lost_variance_for_others(tmp_path: Path) -> None:
    """Half the size: the error is a quarter of the second moment, the mean of each feature being 0."""
    rows = np.array([[1.0, -2.0, 0.5], [-1.0, 2.0, -0.5]], np.float32)
    measure = loss_of(classes(), tmp_path, [{"x": row[None]} for row in rows], None)
    assert measure.kind == "divergence"
    assert measure.what == "1 - share of the original outputs' variance that survives"
    assert measure(model_of(classes(), tmp_path)) == pytest.approx(0, abs=1e-12)
    half = classes()
    half.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32) / 2, "w"))
    assert measure(model_of(half, tmp_path)) == pytest.approx(0.25, rel=1e-6)


def test_a_model_that_gives_no_numbers_loses_without_end(tmp_path: Path) -> None:
    bad = np.full((3, 3), np.nan, np.float32)
    for asked in ("next-token", "divergence"):
        measure = loss_of(table(), tmp_path, [ids(0, 1, 2)], asked)
        assert measure(model_of(table(bad), tmp_path)) == math.inf


def test_labels_that_fit_no_output_leave_the_choice_at_divergence(tmp_path: Path) -> None:
    feeds = [{"x": np.ones((1, 3), np.float32)}]
    assert loss_of(classes(), tmp_path, feeds, None, np.array([0.5])).kind == "divergence"
    assert loss_of(classes(), tmp_path, feeds, None, np.array([[1, 2]])).kind == "divergence"


def test_labels_do_not_stop_a_wish_for_divergence(tmp_path: Path) -> None:
    feeds = [{"x": np.ones((1, 3), np.float32)}]
    assert loss_of(classes(), tmp_path, feeds, "divergence", np.array([1])).kind == "divergence"


def test_few_samples_are_spread_over_all() -> None:
    feeds = [ids(number) for number in range(128)]
    chosen = [int(feed["ids"][0, 0]) for feed in few(feeds)]
    assert chosen == list(range(0, 128, 2))
    assert [int(feed["ids"][0, 0]) for feed in few(feeds[:3])] == [0, 1, 2]


FEEDS = [{"x": np.ones((1, 3), np.float32)}]
REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], list[dict[str, Array]], str, Array | None, str]] = {
    "no labels": (
        classes,
        FEEDS,
        "labels",
        None,
        "--loss labels: samples.npz must hold labels, it has none. Add an array named 'labels'.",
    ),
    "labels of no class": (
        classes,
        FEEDS,
        "labels",
        np.array([0.5]),
        (
            "--loss labels: labels must be class numbers that fit an output of classes, got float64 [] a sample. "
            "Choose --loss divergence."
        ),
    ),
    "no tokens": (
        classes,
        FEEDS,
        "next-token",
        None,
        (
            "--loss next-token: the model must read tokens [batch, sequence] and give out logits [batch, sequence, "
            "vocabulary], got y float32 [batch, 3]. Choose --loss divergence."
        ),
    ),
    "one token": (
        table,
        [ids(1)],
        "next-token",
        None,
        "--loss next-token: samples must hold at least two tokens, got one. Give longer ones.",
    ),
    "sees later tokens": (
        lambda: table(seen=True),
        [ids(0, 1, 2, 1)],
        "next-token",
        None,
        (
            "--loss next-token: output 'logits' must not depend on later tokens, but it does, as a masked language "
            "model's. Choose --loss divergence."
        ),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_loss_that_the_samples_cannot_serve_is_refused(case: str, tmp_path: Path) -> None:
    make, feeds, asked, labels, message = REFUSED[case]
    with pytest.raises(DataError) as told:
        loss_of(make(), tmp_path, feeds, asked, labels)
    assert str(told.value) == message


def test_a_label_beyond_the_classes_is_told(tmp_path: Path) -> None:
    measure = loss_of(classes(), tmp_path, FEEDS, "labels", np.array([3]))
    with pytest.raises(DataError) as told:
        measure(model_of(classes(), tmp_path))
    assert str(told.value) == (
        "--loss labels: output 'y' has classes 0 to 2, got label 3. Mend the labels or choose --loss divergence."
    )


def test_an_unknown_loss_is_told_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(OptionError) as told:
        optimize(tmp_path / "none.onnx", loss="perplexity")
    assert str(told.value) == "--loss must be one of divergence, labels, next-token, got 'perplexity'."


def test_a_loss_without_samples_is_told(tmp_path: Path) -> None:
    path = graphs.saved(classes(), tmp_path)
    with pytest.raises(DataError) as told:
        optimize(path, loss="divergence")
    assert str(told.value) == (
        "--loss divergence needs sample inputs. Give --data, or --allow-synthetic to calibrate on made-up ones."
    )
