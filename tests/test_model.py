"""Loading and saving change no output bit and no user metadata."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.errors import Declined, ModelError, OutputError
from onnxprune.graph import constants, numbers
from onnxprune.model import data_files, digest, load, raise_opset, save, to_bytes
from tests import graphs


def give_out_a_constant() -> onnx.ModelProto:
    nodes = [
        graphs.node("Constant", [], ["c"], value=numpy_helper.from_array(graphs.weights(64, 64), "v")),
        graphs.node("MatMul", ["x", "c"], ["y"]),
    ]
    outputs = [graphs.info("y", ("batch", 64)), graphs.info("c", (64, 64))]
    return graphs.model(nodes, [graphs.info("x", ("batch", 64))], outputs)


def permute_a_scalar() -> onnx.ModelProto:
    """Exporters write `perm = []` for tensors without axes."""
    transpose = graphs.node("Transpose", ["s"], ["y"])
    transpose.attribute.add(name="perm", type=onnx.AttributeProto.INTS)
    nodes = [graphs.node("ReduceSum", ["x"], ["s"], keepdims=0), transpose]
    return graphs.model(nodes, [graphs.info("x", ("batch", 64))], [graphs.info("y", ())])


def state_a_type() -> onnx.ModelProto:
    """Optional keeps its type in an attribute of a kind that graphsurgeon drops."""
    optional = graphs.node("Optional", [], ["o"], type=helper.make_tensor_type_proto(graphs.FLOAT, None))
    nodes = [optional, graphs.node("OptionalHasElement", ["o"], ["has"]), graphs.node("Relu", ["x"], ["y"])]
    outputs = [graphs.info("has", (), graphs.BOOL), graphs.info("y", ("batch", 64))]
    return graphs.model(nodes, [graphs.info("x", ("batch", 64))], outputs, opset=18)


def hold_a_sparse_value() -> onnx.ModelProto:
    tensor = graphs.sparse(np.array([1, 40, 100])).graph.sparse_initializer[0]
    nodes = [graphs.node("Constant", [], ["w"], sparse_value=tensor), graphs.node("MatMul", ["x", "w"], ["y"])]
    return graphs.model(nodes, [graphs.info("x", ("batch", 64))], [graphs.info("y", ("batch", 64))])


def read_strings() -> onnx.ModelProto:
    nodes = [graphs.node("Constant", [], ["s"], value_strings=[b"a", b"b"]), graphs.node("Identity", ["s"], ["t"])]
    outputs = [graphs.info("t", (2,), graphs.STRING), graphs.info("k", (1,), graphs.STRING)]
    nodes += [graphs.node("Identity", ["stored"], ["k"])]
    return graphs.model(nodes, [], outputs, {"stored": np.array(["ä"], dtype=object)})


def read_bfloat16() -> onnx.ModelProto:
    nodes = [graphs.node("Cast", ["w"], ["f"], to=graphs.FLOAT), graphs.node("MatMul", ["x", "f"], ["y"])]
    shape = ("batch", 64)
    stored = graphs.weights(64, 64).astype(ml_dtypes.bfloat16)
    return graphs.model(nodes, [graphs.info("x", shape)], [graphs.info("y", shape)], {"w": stored})


def read_int4(rows: int = 64) -> onnx.ModelProto:
    nodes = [graphs.node("DequantizeLinear", ["w", "s"], ["f"], axis=0), graphs.node("MatMul", ["x", "f"], ["y"])]
    proto = graphs.model(
        nodes,
        [graphs.info("x", ("batch", rows))],
        [graphs.info("y", ("batch", 64))],
        {"s": np.full(rows, 0.125, np.float32)},
        opset=21,
        ir=10,
    )
    integers = np.random.default_rng(0).integers(-8, 8, rows * 64).tolist()
    proto.graph.initializer.append(helper.make_tensor("w", TensorProto.INT4, [rows, 64], integers))
    return proto


def read_nothing() -> onnx.ModelProto:
    """A tensor without numbers, as caches begin."""
    nodes = [graphs.node("Concat", ["x", "none"], ["y"], axis=0)]
    shape = ("batch", 64)
    return graphs.model(
        nodes, [graphs.info("x", shape)], [graphs.info("y", ("more", 64))], {"none": np.zeros((0, 64), np.float32)}
    )


def give_out_an_input_and_a_weight() -> onnx.ModelProto:
    outputs = [graphs.info("y", ("batch", 64)), graphs.info("x", ("batch", 64)), graphs.info("w", (64, 64))]
    nodes = [graphs.node("MatMul", ["x", "w"], ["y"])]
    return graphs.model(nodes, [graphs.info("x", ("batch", 64))], outputs, {"w": graphs.weights(64, 64)})


def stand_out_of_order() -> onnx.ModelProto:
    proto = graphs.feed_forward()
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto


def call_a_local_function() -> onnx.ModelProto:
    body = [graphs.node("MatMul", ["a", "b"], ["m"]), graphs.node("Relu", ["m"], ["c"])]
    opsets = [helper.make_opsetid("", 17)]
    function = helper.make_function("pkg.own", "linear", ["a", "b"], ["c"], body, opsets)
    nodes = [graphs.node("linear", ["x", "w"], ["y"], domain="pkg.own")]
    shape = ("batch", 64)
    proto = graphs.model(
        nodes, [graphs.info("x", shape)], [graphs.info("y", shape)], {"w": graphs.weights(64, 64)}, domains=["pkg.own"]
    )
    proto.functions.append(function)
    return proto


def give_out_a_sequence() -> onnx.ModelProto:
    nodes = [graphs.node("SequenceConstruct", ["x", "x"], ["s"])]
    outputs = [helper.make_tensor_sequence_value_info("s", graphs.FLOAT, None)]
    return graphs.model(nodes, [graphs.info("x", ("batch", 64))], outputs)


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "initializers": graphs.matmul,
    "half precision": lambda: graphs.matmul(dtype=np.float16),
    "initializers among the inputs, before IR 4": lambda: graphs.matmul(opset=9, ir=3),
    "overridable initializers": graphs.overridable,
    "branches that share a weight with the top graph": graphs.branches,
    "branches that share a weight": lambda: graphs.branches(outside=False),
    "a loop that reads an outer weight": graphs.loop,
    "a recurrent layer": lambda: graphs.recurrent("LSTM"),
    "a constant: value": lambda: graphs.with_a_constant_node(
        value=numpy_helper.from_array(np.linspace(0, 1, 300, dtype=np.float32), "v")
    ),
    "a constant: value_float": lambda: graphs.with_a_constant_node(value_float=0.1),
    "a constant: value_floats": lambda: graphs.with_a_constant_node(value_floats=[0.1, 0.2]),
    "a constant: value_int": lambda: graphs.with_a_constant_node(value_int=3),
    "a constant: value_ints": lambda: graphs.with_a_constant_node(value_ints=[3, 4]),
    "a constant: sparse_value": hold_a_sparse_value,
    "a constant that is an output": give_out_a_constant,
    "sparse, positions": lambda: graphs.sparse(np.array([1, 40, 4000])),
    "sparse, coordinates": lambda: graphs.sparse(np.array([[0, 1], [3, 40], [60, 2]])),
    "an empty attribute": permute_a_scalar,
    "an attribute that is a type": state_a_type,
    "strings": read_strings,
    "bfloat16": read_bfloat16,
    "int4, mapped": read_int4,
    "int4, small": lambda: read_int4(rows=8),
    "a tensor without numbers": read_nothing,
    "an input and a weight as outputs": give_out_an_input_and_a_weight,
    "nodes out of order": stand_out_of_order,
    "a local function": call_a_local_function,
    "a sequence as output": give_out_a_sequence,
}


@pytest.fixture(params=MODELS, name="original")
def _original(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return graphs.saved(MODELS[request.param](), tmp_path)


def passes_check(path: Path, *, full: bool) -> bool:
    try:
        onnx.checker.check_model(str(path), full_check=full)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def assert_same_bits(ours: Path, theirs: Path) -> None:
    feeds = graphs.feeds_for(theirs)
    for optimized in (True, False):
        expected, got = (graphs.outputs_of(path, feeds, optimized=optimized) for path in (theirs, ours))
        assert expected.keys() == got.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(got[name], value, strict=isinstance(value, np.ndarray))


def test_load_and_save_change_no_output_bit(original: Path, tmp_path: Path) -> None:
    save(load(original), tmp_path / "saved.onnx")
    assert_same_bits(tmp_path / "saved.onnx", original)


def test_saving_twice_or_a_copy_gives_the_same_bytes(original: Path, tmp_path: Path) -> None:
    model = load(original)
    save(model, tmp_path / "first.onnx")
    save(model, tmp_path / "second.onnx")
    save(model.copy(), tmp_path / "third.onnx")
    again = load(tmp_path / "first.onnx")
    first = (tmp_path / "first.onnx").read_bytes()
    assert (tmp_path / "second.onnx").read_bytes() == first
    assert (tmp_path / "third.onnx").read_bytes() == first
    assert to_bytes(model) == first
    # What was saved once is saved the same way ever after.
    assert to_bytes(again) == first


def test_a_saved_model_passes_the_checks_that_the_original_passes(original: Path, tmp_path: Path) -> None:
    save(load(original), tmp_path / "saved.onnx")
    for full in (False, True):
        assert passes_check(tmp_path / "saved.onnx", full=full) >= passes_check(original, full=full)


def test_the_interface_stays_in_name_order_type_and_symbols(original: Path, tmp_path: Path) -> None:
    save(load(original), tmp_path / "saved.onnx")
    before, after = (onnx.load(path).graph for path in (original, tmp_path / "saved.onnx"))
    assert [value.SerializeToString() for value in before.output] == [
        value.SerializeToString() for value in after.output
    ]
    assert [value.SerializeToString() for value in before.input] == [value.SerializeToString() for value in after.input]


def test_no_weight_is_stored_twice(original: Path, tmp_path: Path) -> None:
    # What grows is a sparse attribute, which becomes a dense tensor of 64 x 64 floats, and the function's own names.
    save(load(original), tmp_path / "saved.onnx")
    grown = (tmp_path / "saved.onnx").stat().st_size - original.stat().st_size
    sparse_attribute = 16384 if b"sparse_value" in original.read_bytes() else 0
    assert grown < 200 + sparse_attribute


def test_what_graphsurgeon_drops_is_put_back(tmp_path: Path) -> None:
    proto = graphs.matmul()
    helper.set_model_props(proto, {"names": '{"0": "cat"}', "stride": "32", "empty": ""})
    proto.doc_string, proto.domain, proto.model_version = "what it is", "org.example", 7
    proto.producer_name, proto.producer_version = "pytorch", "2.13"
    proto.graph.doc_string = "the graph"
    proto.graph.input[0].doc_string = "a batch of vectors"
    save(load(graphs.saved(proto, tmp_path)), tmp_path / "saved.onnx")
    saved = onnx.load(tmp_path / "saved.onnx")
    for field in ("doc_string", "domain", "model_version", "producer_name", "producer_version", "ir_version"):
        assert getattr(saved, field) == getattr(proto, field), field
    assert list(saved.metadata_props) == list(proto.metadata_props)
    assert list(saved.opset_import) == list(proto.opset_import)
    assert saved.graph.doc_string == "the graph"
    assert saved.graph.input[0].doc_string == "a batch of vectors"
    assert saved.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_exporters_notes_on_nodes_are_dropped_and_said(tmp_path: Path) -> None:
    proto = graphs.matmul()
    proto.graph.node[0].metadata_props.add(key="pkg.torch.stack_trace", value="x" * 500)
    model = load(graphs.saved(proto, tmp_path))
    # 21 + 500 characters and 2 + 3 bytes before them
    assert model.notes == ("526 bytes of exporter metadata dropped from 1 nodes",)
    save(model, tmp_path / "saved.onnx")
    assert b"stack_trace" not in (tmp_path / "saved.onnx").read_bytes()


def test_overridable_initializers_can_still_be_overridden(tmp_path: Path) -> None:
    path = graphs.saved(graphs.overridable(), tmp_path)
    model = load(path)
    assert model.overridable == {"open", "bias"}
    save(model, tmp_path / "saved.onnx")
    feeds = graphs.feeds_for(path) | {"open": np.eye(64, dtype=np.float32), "bias": np.ones(64, np.float32)}
    import onnxruntime

    sessions = [onnxruntime.InferenceSession(str(name)) for name in (path, tmp_path / "saved.onnx")]
    expected, got = (session.run(None, feeds)[0] for session in sessions)
    np.testing.assert_array_equal(got, expected)
    assert not np.allclose(got, graphs.outputs_of(path, graphs.feeds_for(path))["y"])


def test_before_ir_4_no_initializer_is_open_to_callers(tmp_path: Path) -> None:
    assert load(graphs.saved(graphs.matmul(opset=9, ir=3), tmp_path)).overridable == frozenset()


def test_weights_inside_bodies_are_found_once(tmp_path: Path) -> None:
    for model in (load(graphs.saved(graphs.branches(), tmp_path)), load(tmp_path / "model.onnx").copy()):
        assert sorted(tensor.name for tensor in constants(model.graph)) == ["v", "w"]


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    model = load(graphs.saved(call_a_local_function(), tmp_path))
    assert [node.op for node in model.graph.nodes] == ["MatMul", "Relu"]
    assert not model.graph.functions


def test_looking_at_a_packed_or_sparse_constant_leaves_it_as_it_is(tmp_path: Path) -> None:
    for number, proto in enumerate((read_int4(), graphs.sparse(np.array([1, 40, 100])))):
        model = load(graphs.saved(proto, tmp_path, f"{number}.onnx"))
        before = to_bytes(model)
        for tensor in constants(model.graph):
            assert numbers(tensor).shape == tuple(tensor.shape)
        assert to_bytes(model) == before


def test_a_sparse_constant_reads_as_the_numbers_it_stands_for(tmp_path: Path) -> None:
    expected = np.zeros((64, 64), np.float32)
    expected[0, 1], expected[3, 40], expected[60, 2] = 1.5, -2.0, 3.0
    for at, indices in enumerate((np.array([1, 3 * 64 + 40, 60 * 64 + 2]), np.array([[0, 1], [3, 40], [60, 2]]))):
        (tensor,) = constants(load(graphs.saved(graphs.sparse(indices), tmp_path, f"{at}.onnx")).graph)
        np.testing.assert_array_equal(tensor.values, expected, strict=True)


def test_loading_and_copying_read_no_weights(tmp_path: Path) -> None:
    model = load(graphs.saved(graphs.feed_forward(), tmp_path))
    large = {t.name: t._values for t in constants(model.graph) if t.shape[-1] > 1 and len(t.shape) == 2}
    copied = {t.name: t._values for t in constants(model.copy().graph) if t.name in large}
    for name, array in large.items():
        assert isinstance(array, np.ndarray)
        assert not array.flags.owndata
        assert not array.flags.writeable
        assert copied[name] is array


def test_an_edit_of_a_copy_does_not_reach_the_original(tmp_path: Path) -> None:
    model = load(graphs.saved(graphs.convolution(), tmp_path))
    before = to_bytes(model)
    copy = model.copy()
    for node in copy.graph.nodes:
        node.attrs["group"] = 2
        node.inputs.clear()
    copy.graph.nodes.clear()
    assert to_bytes(model) == before


# External data


@pytest.fixture(name="outside")
def _outside(tmp_path: Path) -> Path:
    """A model whose weights stand in a file beside it, in a folder of their own."""
    folder = tmp_path / "model"
    folder.mkdir()
    onnx.save(
        graphs.feed_forward(), folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=1024
    )
    return folder / "m.onnx"


def test_external_data_is_found_beside_the_model_wherever_we_stand(
    outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert len(to_bytes(load(outside))) > 2 * 64 * 96 * 4
    monkeypatch.chdir(outside.parent)
    assert len(to_bytes(load("m.onnx"))) > 2 * 64 * 96 * 4


def test_external_data_stays_external(outside: Path, tmp_path: Path) -> None:
    save(load(outside), tmp_path / "saved.onnx")
    assert (tmp_path / "saved.onnx").stat().st_size < 2048
    assert data_files(tmp_path / "saved.onnx") == (tmp_path / "saved.onnx.data",)
    assert_same_bits(tmp_path / "saved.onnx", outside)


def test_external_weights_start_on_pages_so_that_runtimes_can_map_them(outside: Path, tmp_path: Path) -> None:
    save(load(outside), tmp_path / "saved.onnx")
    proto = onnx.load(tmp_path / "saved.onnx", load_external_data=False)
    entries = [{e.key: e.value for e in t.external_data} for t in proto.graph.initializer if t.external_data]
    assert len(entries) == 2
    assert all(int(entry["offset"]) % 4096 == 0 for entry in entries)


def test_an_inline_model_can_be_saved_with_external_data_and_back(tmp_path: Path) -> None:
    path = graphs.saved(graphs.feed_forward(), tmp_path)
    save(load(path), tmp_path / "outside.onnx", external=True)
    assert (tmp_path / "outside.onnx.data").exists()
    save(load(tmp_path / "outside.onnx"), tmp_path / "inside.onnx", external=False)
    assert (tmp_path / "inside.onnx").read_bytes() == to_bytes(load(path))
    assert_same_bits(tmp_path / "inside.onnx", path)


def test_saving_never_overwrites_a_data_file_that_is_mapped(outside: Path) -> None:
    before = digest(outside)
    model = load(outside)
    for _ in range(2):
        save(model, outside.with_name("again.onnx"))
    # Over the input's own name: its data file is mapped and must stay.
    save(model, outside)
    expected = (outside.parent / "m.data").read_bytes()
    assert before.endswith(hashlib.sha256(expected).hexdigest())
    assert_same_bits(outside, outside.with_name("again.onnx"))


def test_the_digest_covers_the_data_files(outside: Path) -> None:
    before = digest(outside)
    data = outside.with_name("m.data")
    changed = bytearray(data.read_bytes())
    changed[100] ^= 1
    data.write_bytes(changed)
    assert digest(outside) != before
    assert len(before.split(":")) == 2


def test_a_missing_data_file_is_one_line(outside: Path) -> None:
    outside.with_name("m.data").unlink()
    with pytest.raises(ModelError) as caught:
        load(outside)
    data = outside.with_name("m.data")
    assert str(caught.value) == f"{data}: no such file, but the model keeps its weights there. Put it beside the model."


def test_a_data_file_that_is_too_short_is_one_line(outside: Path) -> None:
    data = outside.with_name("m.data")
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(ModelError) as caught:
        load(outside)
    # 64 x 96 floats
    assert str(caught.value) == (
        "up: 24576 bytes at offset 0 are needed, the data ends at 1000. Copy the model and its data file again."
    )


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "sub/../../secret"])
def test_external_data_outside_the_models_folder_is_refused(outside: Path, location: str) -> None:
    (outside.parent.parent / "secret").write_bytes(b"\0" * 100_000)
    proto = onnx.load(outside, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    outside.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError) as caught:
        load(outside)
    assert str(caught.value) == (f"up: external data must lie in the model's folder, got {location!r}. Move it there.")


# Writing is atomic


class _FullDisk:
    """A file that takes a few bytes and then is full."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self._room = file, room

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: Any) -> int:
        self._room -= memoryview(data).nbytes
        if self._room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self._file.write(data))

    def writelines(self, parts: Any) -> None:
        for part in parts:
            self.write(part)


@pytest.fixture(name="full_disk")
def _full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    opened = os.fdopen

    def fill(room: int) -> None:
        monkeypatch.setattr(os, "fdopen", lambda handle, mode: _FullDisk(opened(handle, mode), room))

    return fill


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("room", [0, 100, 30_000])
def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, full_disk: Callable[[int], None], room: int, external: bool
) -> None:
    model = load(graphs.saved(graphs.feed_forward(), tmp_path))
    before = set(tmp_path.iterdir())
    full_disk(room)
    with pytest.raises(OutputError) as caught:
        save(model, tmp_path / "saved.onnx", external=external)
    assert str(caught.value).endswith(
        ": cannot be written: No space left on device. Choose another place with --output."
    )
    assert set(tmp_path.iterdir()) == before


def test_a_failure_leaves_what_stood_there_before(tmp_path: Path, full_disk: Callable[[int], None]) -> None:
    model = load(graphs.saved(graphs.feed_forward(), tmp_path))
    (tmp_path / "saved.onnx").write_text("older")
    full_disk(1000)
    with pytest.raises(OutputError):
        save(model, tmp_path / "saved.onnx")
    assert (tmp_path / "saved.onnx").read_text() == "older"


def test_a_saved_file_has_the_mode_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    save(load(graphs.saved(graphs.matmul(), tmp_path)), tmp_path / "saved.onnx")
    assert (tmp_path / "saved.onnx").stat().st_mode == (tmp_path / "plain").stat().st_mode


# Opsets


@pytest.mark.parametrize("ir", [3, 4, 6])
def test_a_raised_opset_keeps_outputs_interface_and_what_callers_may_override(tmp_path: Path, ir: int) -> None:
    path = graphs.saved(graphs.convolution(opset=9, ir=ir), tmp_path)
    model = load(path).with_metadata(kept="yes")
    raised = raise_opset(model, 13)
    save(raised, tmp_path / "raised.onnx")
    assert raised.graph.opset == 13
    assert raised.overridable == model.overridable == frozenset()
    assert raised.metadata == {"kept": "yes"}
    feeds = graphs.feeds_for(path)
    np.testing.assert_allclose(
        graphs.outputs_of(tmp_path / "raised.onnx", feeds)["y"], graphs.outputs_of(path, feeds)["y"], rtol=1e-5
    )


def test_an_opset_that_cannot_be_raised_is_declined(tmp_path: Path) -> None:
    model = load(graphs.saved(graphs.matmul(), tmp_path))
    with pytest.raises(Declined, match=r"^opset 17 cannot be raised to 999: "):
        raise_opset(model, 999)
