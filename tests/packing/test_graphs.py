"""Packed weights in graphs: the runtime decodes them at load, and they are recognised whatever they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxprune.decoding import Decoding
from onnxprune.graph import constants, numbers
from onnxprune.model import Model, load, save, to_bytes
from onnxprune.packing import Dense, PackWriter, encode, find_packed, unpacked
from onnxprune.packing.symbols import storable
from onnxprune.runtime import open_session
from tests import graphs

Array = np.ndarray[Any, Any]


def holding(values: Array, folder: Path) -> Model:
    """A model that looks rows up in a table, and gives them out as they are."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
    rows = ("count", *values.shape[1:])
    proto = graphs.model(
        [graphs.node("Gather", ["table", "ids"], ["y"])],
        [graphs.info("ids", ("count",), graphs.INT64)],
        [graphs.info("y", rows, kind)],
        {"table": values},
    )
    return load(graphs.saved(proto, folder))


def packed(model: Model) -> Model:
    """The model with every constant in its smallest form."""
    result = model.copy()
    writer = PackWriter(result.graph)
    for constant in list(constants(result.graph)):
        form = encode(storable(numbers(constant)))
        if not isinstance(form, Dense):
            writer.replace(constant, form)
    writer.finish()
    return result


@st.composite
def tables(draw: st.DrawFn) -> Array:
    """Arrays of two or three axes that are worth packing, or nearly so."""
    shape = draw(st.lists(st.integers(1, 40), min_size=2, max_size=3).filter(lambda s: np.prod(s) >= 400))
    dtype = np.dtype(draw(st.sampled_from(["int8", "uint8", "float16", "float32", "int32", "bool"])))
    levels = draw(st.sampled_from([1, 2, 3, 5, 15, 16, 120]))
    share = draw(st.sampled_from([0.0, 0.5, 0.75, 0.97, 1.0]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = generator.integers(1, levels + 1, shape)
    values[generator.random(shape) < share] = 0
    return values.astype(dtype)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables())
def test_the_runtime_decodes_what_was_packed(tmp_path: Path, values: Array) -> None:
    model = holding(values, tmp_path)
    small = packed(model)
    ids = np.arange(len(values))
    for level in ("default", "none"):
        came = open_session(small, level=level).run({"ids": ids})["y"]
        assert came.dtype == values.dtype
        assert came.tobytes() == values.tobytes()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables())
def test_unpacking_gives_the_bytes_from_before_packing(tmp_path: Path, values: Array) -> None:
    model = holding(values, tmp_path)
    save(packed(model), tmp_path / "packed.onnx")
    dense, count = unpacked(load(tmp_path / "packed.onnx"))
    assert count == (0 if isinstance(encode(storable(values)), Dense) else 1)
    assert to_bytes(dense) == to_bytes(model)


def sparse(share: float = 0.8) -> Array:
    """[96, 64] float32."""
    generator = np.random.default_rng(0)
    values = generator.standard_normal((96, 64)).astype(np.float32)
    values[generator.random(values.shape) < share] = 0
    return values


def test_the_dense_constant_is_all_that_a_session_keeps(tmp_path: Path) -> None:
    model = holding(sparse(), tmp_path)
    assert Decoding(model).of(packed(model), {"table"}).whole


def test_weights_that_are_decoded_at_every_run_are_named(tmp_path: Path) -> None:
    """A number that comes with each run keeps the runtime from folding what depends on it."""
    proto = graphs.compressible()
    proto.graph.input.append(graphs.info("zero", (), graphs.FLOAT))
    path = graphs.saved(proto, tmp_path)
    small = packed(load(path))
    for node in small.graph.nodes:
        if node.outputs[0].name == "w":
            shifted = gs.Variable("shifted")
            zero = next(tensor for tensor in small.graph.inputs if tensor.name == "zero")
            small.graph.nodes.insert(
                small.graph.nodes.index(node), gs.Node("Add", inputs=[node.inputs[0], zero], outputs=[shifted])
            )
            node.inputs[0] = shifted
            break
    found = Decoding(load(path)).of(small, {"w", "table"})
    assert found.left == {"w"}
    assert not found.whole


def test_a_runtime_that_refuses_the_model_is_quoted(tmp_path: Path) -> None:
    model = holding(sparse(), tmp_path)
    broken = packed(model)
    broken.graph.nodes[0].op = "NoSuchOperator"
    found = Decoding(model).of(broken, {"table"})
    assert found.why.startswith("model.onnx: onnxruntime refuses the model: ")
    assert "NoSuchOperator" in found.why


def test_operators_that_a_dense_model_would_not_run_are_named(tmp_path: Path) -> None:
    model = holding(sparse(), tmp_path)
    other = packed(model)
    last = other.graph.nodes[-1]
    doubled = gs.Variable("doubled", dtype=np.float32, shape=last.outputs[0].shape)
    other.graph.nodes.append(gs.Node("Abs", inputs=[last.outputs[0]], outputs=[doubled]))
    other.graph.outputs[:] = [doubled]
    assert Decoding(model).of(other, {"table"}).why == "the runtime runs other operators: 1 more Abs"


def test_names_say_nothing(tmp_path: Path) -> None:
    path = tmp_path / "packed.onnx"
    save(packed(holding(sparse(), tmp_path)), path)
    proto = onnx.load(path)
    renamed = {
        name: f"n{at}" for at, name in enumerate(sorted({o for n in proto.graph.node for o in n.output if o != "y"}))
    }
    for node in proto.graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    onnx.save(proto, path)
    (found,) = find_packed(load(path).graph)
    assert np.array_equal(found.decoded(), sparse())


@pytest.mark.parametrize("change", ["table", "bits", "length"])
def test_what_only_looks_like_a_packed_weight_is_left_alone(tmp_path: Path, change: str) -> None:
    """Another table of bits, a bit too many, one number too few: none of them is ours, and none of them ends us."""
    path = tmp_path / "packed.onnx"
    save(packed(holding(sparse(), tmp_path)), path)
    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor).copy()
        if (change == "table" and array.shape == (256, 8)) or (change == "bits" and array.shape == (96 * 8,)):
            array.reshape(-1)[3] ^= 1
        elif change == "length" and array.dtype == np.float32 and array.ndim == 1 and len(array) > 100:
            array = array[:-1]
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(proto, path)
    assert find_packed(load(path).graph) == ()


def test_four_bit_integers_with_many_zeros_are_packed_too(tmp_path: Path) -> None:
    import ml_dtypes

    generator = np.random.default_rng(0)
    values = generator.integers(-8, 8, (128, 64)).astype(np.int8)
    values[generator.random(values.shape) < 0.85] = 0
    four = values.astype(ml_dtypes.int4)
    proto = graphs.model(
        [
            graphs.node("DequantizeLinear", ["w", "scale"], ["d"], axis=1),
            graphs.node("MatMul", ["x", "d"], ["y"]),
        ],
        [graphs.info("x", ("batch", 128))],
        [graphs.info("y", ("batch", 64))],
        {"scale": np.full(64, 0.5, np.float32)},
        opset=21,
        ir=10,
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(four, "w"))
    model = load(graphs.saved(proto, tmp_path))
    small = model.copy()
    writer = PackWriter(small.graph)
    (weight,) = (tensor for tensor in constants(small.graph) if tensor.name == "w")
    writer.replace(weight, encode(storable(numbers(weight))))
    writer.finish()
    x = np.random.default_rng(1).standard_normal((3, 128)).astype(np.float32)
    expected = open_session(model).run({"x": x})["y"]
    assert open_session(small).run({"x": x})["y"].tobytes() == expected.tobytes()
    assert Decoding(model).of(small, {"w"}).whole
    assert to_bytes(unpacked(small)[0]) == to_bytes(model)
