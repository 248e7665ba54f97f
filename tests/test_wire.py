"""Large tensors are cut out of a message and put back without a byte of difference."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from onnxprune.graph import constants
from onnxprune.memory import release
from onnxprune.model import load, wire
from tests import graphs


def payloads_of(whole: bytes) -> wire.Lookup:
    """What stands in `whole` where a skeleton's entries point."""

    def lookup(tensor: bytes) -> memoryview | None:
        proto = onnx.TensorProto.FromString(tensor)
        if proto.data_location != onnx.TensorProto.EXTERNAL:
            return None
        entries = {entry.key: entry.value for entry in proto.external_data}
        assert entries["location"] == ""
        start = int(entries["offset"])
        return memoryview(whole)[start : start + int(entries["length"])]

    return lookup


def there_and_back(whole: bytes, minimum: int) -> bytes:
    buffer = io.BytesIO()
    wire.join(wire.skeleton(memoryview(whole), minimum), payloads_of(whole), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("make", [graphs.matmul, graphs.branches, graphs.feed_forward, graphs.convolution])
def test_a_skeleton_is_small_and_joins_to_the_same_model(make: graphs.Maker) -> None:
    proto = make()
    whole = proto.SerializeToString()
    skeleton = wire.skeleton(memoryview(whole), 1024)
    assert len(skeleton) < 2000 < len(whole)
    assert onnx.ModelProto.FromString(there_and_back(whole, 1024)) == proto


def test_a_tensor_that_states_the_default_location_is_cut_out_too() -> None:
    proto = graphs.matmul()
    proto.graph.initializer[0].data_location = onnx.TensorProto.DEFAULT
    whole = proto.SerializeToString()
    (tensor,) = onnx.ModelProto.FromString(wire.skeleton(memoryview(whole), 1024)).graph.initializer
    assert tensor.data_location == onnx.TensorProto.EXTERNAL
    assert len(there_and_back(whole, 1024)) <= len(whole)


def test_small_tensors_stay_in_the_message() -> None:
    whole = graphs.matmul().SerializeToString()
    # 64 x 64 floats
    assert wire.skeleton(memoryview(whole), 64 * 64 * 4 + 1) == whole
    assert len(wire.skeleton(memoryview(whole), 64 * 64 * 4)) < 300


@given(shape=st.lists(st.integers(0, 40), max_size=3), minimum=st.integers(0, 4000))
def test_any_tensor_survives_any_threshold(shape: list[int], minimum: int) -> None:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    proto = graphs.model([], [], [], {"w": array})
    back = onnx.ModelProto.FromString(there_and_back(proto.SerializeToString(), minimum))
    np.testing.assert_array_equal(numpy_helper.to_array(back.graph.initializer[0]), array, strict=True)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_message_or_a_wire_error(data: bytes) -> None:
    with suppress(wire.WireError):
        # At least one tensor of the message is cut out, or nothing but the lengths of its children is written anew.
        result = wire.skeleton(memoryview(data), 0)
        assert b"location" in result or len(result) <= len(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80", "a number is cut off at byte 1"),
        (b"\x0a\x05ab", "a field at byte 0 runs past the end of its message"),
        (b"\x0b", "wire type 3 at byte 0 is not used by ONNX"),
        (b"\x08" + b"\xff" * 11, "a number is cut off at byte 11"),
    ],
)
def test_malformed_bytes_say_where(data: bytes, message: str) -> None:
    with pytest.raises(wire.WireError) as caught:
        list(wire.fields(memoryview(data), 0, len(data)))
    assert str(caught.value) == message


def test_released_pages_are_read_again_from_the_file(tmp_path: Path) -> None:
    values = np.arange(1 << 20, dtype=np.float32)
    tensor = onnx.numpy_helper.from_array(values, "w")
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    ports = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1 << 20]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "g", ports[:1], ports[1:], [tensor])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "m.onnx")
    (weight,) = constants(load(tmp_path / "m.onnx").graph)
    mapped = weight.values
    assert np.array_equal(mapped, values)
    before = resident_file_pages()
    release(mapped)
    # 4 MiB of pages went.
    assert resident_file_pages() <= before - 900
    assert np.array_equal(mapped, values)


def resident_file_pages() -> int:
    return int(Path("/proc/self/statm").read_text().split()[2])
