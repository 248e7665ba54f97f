"""Streamed statistics equal those of all values at once, without padded tokens, in bounded memory."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxprune.calibration import Columns, Needs, Statistics, collect
from onnxprune.errors import DataError, ModelError, OptionError, OutputError
from onnxprune.masks import find_mask, kept_rows
from onnxprune.model import Model, load
from onnxprune.observer import groups
from onnxprune.runtime import Feeds, Port, observe

Array = np.ndarray[Any, Any]
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
node = helper.make_node
EVERY = ("hidden", "active", "heads", "flat", "y", "x")
WIDTHS = {"hidden": 12, "active": 12, "heads": 4, "flat": 12, "y": 6, "x": 8}


@pytest.fixture(name="model")
def _model(tmp_path: Path) -> Model:
    """[batch, sequence, 8] to 12 columns, split in 3 heads of 4, flattened to rows, and on to 6 outputs."""
    generator = np.random.default_rng(0)
    weights = {
        "up": generator.standard_normal((8, 12)).astype(np.float32),
        "down": generator.standard_normal((12, 6)).astype(np.float32),
        "split": np.array([0, 0, 3, 4]),
        "merge": np.array([-1, 12]),
    }
    then = helper.make_graph(
        [node("Neg", ["y"], ["inner"])], "then", [], [helper.make_tensor_value_info("inner", FLOAT, None)]
    )
    other = helper.make_graph(
        [node("Abs", ["y"], ["outer"])], "else", [], [helper.make_tensor_value_info("outer", FLOAT, None)]
    )
    graph = helper.make_graph(
        [
            node("MatMul", ["x", "up"], ["hidden"]),
            node("Relu", ["hidden"], ["active"]),
            node("Reshape", ["active", "split"], ["apart"]),
            node("Transpose", ["apart"], ["heads"], perm=[0, 2, 1, 3]),
            node("Reshape", ["active", "merge"], ["flat"]),
            node("MatMul", ["flat", "down"], ["y"]),
            node("ReduceSum", ["y"], ["total"], keepdims=0),
            node("Cast", ["attention_mask"], ["on"], to=BOOL),
            node("ReduceMax", ["attention_mask"], ["most"], keepdims=0),
            node("Cast", ["most"], ["any"], to=BOOL),
            node("If", ["any"], ["z"], then_branch=then, else_branch=other),
        ],
        "g",
        [
            helper.make_tensor_value_info("x", FLOAT, ["batch", "sequence", 8]),
            helper.make_tensor_value_info("attention_mask", INT64, ["batch", "sequence"]),
        ],
        [helper.make_tensor_value_info("z", FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return load(path)


def samples_of(count: int = 5, *, batch: int = 1, padded: bool = True) -> list[Feeds]:
    generator = np.random.default_rng(1)
    samples: list[Feeds] = []
    for index in range(count):
        sequence = 3 + 2 * index
        mask = np.ones((batch, sequence), np.int64)
        if padded:
            for row in range(batch):
                mask[row, sequence - 1 - (row + index) % 3 :] = 0
        x = generator.standard_normal((batch, sequence, 8)).astype(np.float32)
        samples.append({"x": x, "attention_mask": mask})
    return samples


def rows_at_once(model: Model, name: str, samples: list[Feeds], *, masked: bool = True) -> Array:
    """[rows, k] of a tensor over all samples, in float64, padded tokens left out: the definition, spelled slowly."""
    rows = []
    for feeds in samples:
        value = (observe(model, feeds, [name], "default") | dict(feeds))[name]
        batch, sequence = feeds["attention_mask"].shape
        for b in range(batch):
            for s in range(sequence):
                if masked and not feeds["attention_mask"][b, s]:
                    continue
                if name == "heads":
                    rows += [value[b, head, s] for head in range(3)]
                elif name in {"flat", "y"}:
                    rows.append(value[b * sequence + s])
                else:
                    rows.append(value[b, s])
    return np.array(rows, np.float64)


def check(found: Columns, rows: Array) -> None:
    # Sums of the same float32 values in another order, in float64: some hundred roundings of 1e-16.
    exact: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}
    assert found.rows == len(rows)
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), **exact)
    np.testing.assert_allclose(found.norm, np.linalg.norm(rows, axis=0), **exact)
    np.testing.assert_allclose(found.mean_abs, np.abs(rows).mean(axis=0), **exact)
    np.testing.assert_array_equal(found.max_abs, np.abs(rows).max(axis=0))
    if found.gram is not None:
        np.testing.assert_allclose(found.gram, rows.T @ rows, **exact)
        np.testing.assert_array_equal(found.gram, found.gram.T)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", EVERY)
def test_statistics_are_those_of_all_rows_at_once_without_padded_tokens(model: Model, name: str, batch: int) -> None:
    samples = samples_of(batch=batch)
    found = collect(model, Needs(grams=frozenset([name])), samples)
    assert (found.samples, found.mask, found.missing) == (5, "attention_mask", {})
    assert set(found.columns) == {name}
    gram = found.columns[name].gram
    assert gram is not None
    assert gram.shape == (WIDTHS[name], WIDTHS[name])
    check(found.columns[name], rows_at_once(model, name, samples))


def test_the_mask_matters_and_can_be_turned_off(model: Model) -> None:
    samples = samples_of()
    needs = Needs(columns=frozenset(["hidden"]))
    masked, whole = collect(model, needs, samples), collect(model, needs, samples, mask="")
    assert whole.mask is None
    # 3 + 5 + 7 + 9 + 11 tokens, of which 1 + 2 + 3 + 1 + 2 are padded
    assert (whole.columns["hidden"].rows, masked.columns["hidden"].rows) == (35, 26)
    check(whole.columns["hidden"], rows_at_once(model, "hidden", samples, masked=False))
    assert collect(model, needs, samples, mask="attention_mask").columns["hidden"].rows == 26


def test_columns_alone_cost_no_gram(model: Model) -> None:
    samples = samples_of()
    found = collect(model, Needs(columns=frozenset(["active"])), samples).columns["active"]
    assert found.gram is None
    check(found, rows_at_once(model, "active", samples))


def test_ranges_are_the_least_and_largest_values_padding_included(model: Model) -> None:
    samples = samples_of()
    found = collect(model, Needs(ranges=frozenset(["hidden", "x", "total"])), samples)
    rows = rows_at_once(model, "hidden", samples, masked=False)
    assert found.ranges["hidden"] == (rows.min(), rows.max())
    assert found.ranges["x"] == (
        min(float(feeds["x"].min()) for feeds in samples),
        max(float(feeds["x"].max()) for feeds in samples),
    )
    assert found.ranges["total"][0] < found.ranges["total"][1]
    assert found.columns == {}


def test_a_small_budget_gives_the_same_numbers_in_several_passes(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = samples_of()
    needs = Needs(grams=frozenset(EVERY), ranges=frozenset(["hidden"]))
    opened: list[list[str]] = []

    def counted(source: Model, names: list[str]) -> Callable[[Feeds], dict[str, Array]]:
        opened.append(names)
        return observer(source, names)

    from onnxprune.observer import observer

    monkeypatch.setattr("onnxprune.calibration.observer", counted)
    at_once = collect(model, needs, samples)
    assert len(opened) == 1
    opened.clear()
    # A Gram matrix of 12 columns takes 1152 bytes; its first activations 4·3·12 more.
    in_parts = collect(model, needs, samples, memory_bytes=1300)
    assert len(opened) > 3
    assert sorted(name for names in opened for name in names) == sorted(EVERY)
    assert in_parts.ranges == at_once.ranges
    for name in EVERY:
        whole, part = at_once.columns[name], in_parts.columns[name]
        # Fused kernels differ by what is observed beside: some roundings of float32.
        np.testing.assert_allclose(part.mean, whole.mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(np.asarray(part.gram), np.asarray(whole.gram), rtol=1e-5, atol=1e-5)
        assert isinstance(part.gram, np.memmap)
        assert not isinstance(whole.gram, np.memmap)


def test_a_full_disk_is_told(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    needs = Needs(grams=frozenset(EVERY))
    monkeypatch.setattr("tempfile.gettempdir", lambda: "place")
    monkeypatch.setattr("onnxprune.calibration.tempfile.TemporaryFile", full)
    monkeypatch.setattr("onnxprune.files.tempfile.TemporaryDirectory", partial(TemporaryDirectory, dir=tmp_path))
    with pytest.raises(OutputError) as caught:
        collect(model, needs, samples_of(), memory_bytes=1300)
    assert str(caught.value) == (
        "place: statistics cannot be written: No space left on device. Set TMPDIR to another folder."
    )


def test_a_gram_that_no_budget_holds_is_missing_with_its_reason(model: Model) -> None:
    found = collect(model, Needs(grams=frozenset(["hidden", "x"])), samples_of(), memory_bytes=1000)
    # 12·12·8 = 1152; 8·8·8 = 512 fits
    assert found.missing == {"hidden": "its second moment takes 1152 bytes, more than the 1000 allowed"}
    assert set(found.columns) == {"x"}


def test_what_cannot_be_observed_is_missing_with_its_reason(model: Model) -> None:
    names = frozenset(["inner", "outer", "total", "x"])
    found = collect(model, Needs(grams=names, ranges=frozenset(["inner"])), samples_of())
    inner = "it is computed in the body of an If, Loop or Scan"
    assert found.missing == {"inner": inner, "outer": inner, "total": "it is a scalar"}
    assert set(found.columns) == {"x"}
    assert found.ranges == {}


def test_a_tensor_that_does_not_exist_is_our_own_fault(model: Model) -> None:
    with pytest.raises(KeyError):
        collect(model, Needs(ranges=frozenset(["no such tensor"])), samples_of())


def test_an_iterator_is_read_once_and_one_sample_is_alive_at_a_time(model: Model) -> None:
    samples = samples_of()

    def stream() -> Iterator[Feeds]:
        yield from samples

    needs = Needs(grams=frozenset(EVERY))
    assert collect(model, needs, stream(), memory_bytes=1300).samples == 5
    found, again = collect(model, needs, stream()), collect(model, needs, samples)
    np.testing.assert_array_equal(found.columns["hidden"].gram, again.columns["hidden"].gram)


def test_the_model_is_left_as_it_was(model: Model) -> None:
    outputs = [tensor.name for tensor in model.graph.outputs]
    count = len(model.graph.nodes)
    collect(model, Needs(grams=frozenset(EVERY)), samples_of())
    assert [tensor.name for tensor in model.graph.outputs] == outputs
    assert len(model.graph.nodes) == count


def test_no_needs_run_nothing_and_no_sample_is_told(model: Model) -> None:
    assert collect(model, Needs(), samples_of()) == Statistics(samples=5, mask="attention_mask")
    with pytest.raises(DataError) as caught:
        collect(model, Needs(), [])
    assert str(caught.value) == "calibration: at least one sample is needed, got none. Give --data."


def test_a_mask_that_the_model_does_not_have_is_told(model: Model) -> None:
    with pytest.raises(OptionError) as caught:
        collect(model, Needs(), samples_of(), mask="padding")
    assert str(caught.value) == "--mask: the model has no input 'padding'. Its inputs: attention_mask, x."


def test_feeds_that_do_not_run_are_told(model: Model) -> None:
    wrong: list[Feeds] = [{"x": np.zeros((1, 3, 9), np.float32), "attention_mask": np.ones((1, 3), np.int64)}]
    with pytest.raises(ModelError):
        collect(model, Needs(ranges=frozenset(["hidden"])), wrong)


def test_needs_join() -> None:
    joined = Needs(ranges=frozenset("a"), grams=frozenset("b")) | Needs(ranges=frozenset("c"), columns=frozenset("d"))
    assert joined == Needs(ranges=frozenset("ac"), columns=frozenset("d"), grams=frozenset("b"))
    assert joined.tensors == frozenset("abcd")


def port(name: str, kind: Any = np.int64, rank: int = 2) -> Port:
    return Port(name, np.dtype(kind), ("batch", "sequence", "more")[:rank])


@pytest.mark.parametrize(
    ("ports", "found"),
    [
        ([port("input_ids"), port("attention_mask")], "attention_mask"),
        ([port("decoder_attention_mask"), port("attention_mask")], "attention_mask"),
        ([port("input_ids"), port("input_mask")], "input_mask"),
        ([port("bert.attention_mask_1", np.float32)], "bert.attention_mask_1"),
        ([port("encoder_attention_mask"), port("decoder_attention_mask")], None),
        ([port("key_padding_mask", np.bool_)], None),
        ([port("attention_mask", rank=3)], None),
        ([port("input_ids"), port("token_type_ids")], None),
    ],
)
def test_a_mask_is_found_by_its_name_where_that_is_plain(ports: list[Port], found: str | None) -> None:
    assert find_mask(ports) == found


@given(batch=st.integers(1, 3), sequence=st.integers(2, 5), heads=st.integers(6, 7), width=st.integers(1, 4))
def test_rows_are_kept_in_every_layout_of_tokens(batch: int, sequence: int, heads: int, width: int) -> None:
    """A tensor that holds the mask itself, laid out like activations: what is kept is what is not zero."""
    mask = (np.arange(batch * sequence).reshape(batch, sequence) % 3 != 1).astype(np.int64)
    wide = np.broadcast_to(mask[:, None, :, None], (batch, heads, sequence, width))
    layouts = [
        wide,
        wide.transpose(0, 2, 1, 3),
        wide.reshape(batch * heads, sequence, width),
        wide[:, 0],
        wide[:, 0].reshape(batch * sequence, width),
        wide[:, 0].transpose(1, 0, 2),
    ]
    for layout in layouts:
        kept = kept_rows(layout.shape, mask)
        # Lengths that coincide may be read either way; here only [batch, sequence] against its transpose can.
        if kept is not None and batch != sequence:
            assert (layout[kept] == 1).all()
            assert layout[~kept].sum() == 0
    assert kept_rows((batch, width), mask) is None
    assert kept_rows((8, 9, width), mask) is None


@given(
    sizes=st.dictionaries(st.text(min_size=1, max_size=3), st.integers(0, 50), max_size=12), limit=st.integers(1, 60)
)
def test_groups_hold_every_name_once_and_keep_to_the_limit_where_they_can(sizes: dict[str, int], limit: int) -> None:
    parts = groups(sizes, limit)
    assert sorted(name for part in parts for name in part) == sorted(sizes)
    assert all(len(part) == 1 or sum(sizes[name] for name in part) <= limit for part in parts)


def test_tokens_are_counted_without_padding(tmp_path: Path) -> None:
    """Ids that the graph gets and ids that it computes, where the mask tells padded places of both."""
    graph = helper.make_graph(
        [node("Add", ["ids", "one"], ["next"]), node("Gather", ["table", "next"], ["y"])],
        "graph",
        [helper.make_tensor_value_info(name, INT64, ["b", "s"]) for name in ("ids", "attention_mask")],
        [helper.make_tensor_value_info("y", FLOAT, ["b", "s", 2])],
        [
            numpy_helper.from_array(np.array(1, np.int64), "one"),
            numpy_helper.from_array(np.zeros((9, 2), np.float32), "table"),
        ],
    )
    path = tmp_path / "tokens.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    first = {"ids": np.array([[3, 3, 5]]), "attention_mask": np.array([[1, 1, 0]])}
    second = {"ids": np.array([[5, 7]]), "attention_mask": np.array([[1, 1]])}
    needs = Needs(tokens=frozenset({"ids", "next"}))
    found = collect(load(path), needs, [first, second]).tokens
    # 3 twice; the first 5 is padding, the second is not; 7 once.
    assert [part.tolist() for part in found["ids"]] == [[3, 5, 7], [2, 1, 1]]
    assert [part.tolist() for part in found["next"]] == [[4, 6, 8], [2, 1, 1]]
    assert (needs | Needs()).tensors == {"ids", "next"}
