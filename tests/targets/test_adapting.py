"""What an older runtime is given: the same operators in a file that it can read, or the true reason why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.errors import TargetError
from onnxprune.targets.adapting import Limits, adapt

OLD = Limits(runtime="onnxruntime 1.0", ir=8, opset=17)


def saved(path: Path, *, ir: int = 8, opset: int = 17, domain: str = "", weight: int = TensorProto.FLOAT) -> Path:
    tensor = numpy_helper.from_array(np.ones((2, 2), np.float32), "w")
    if weight != TensorProto.FLOAT:
        tensor = helper.make_tensor("w", weight, [2, 2], [1, 1, 1, 1])
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], domain=domain)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [tensor],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 5)]
    if domain:
        imports.append(helper.make_opsetid(domain, 1))
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=ir), path)
    return path


def test_a_copy_has_an_older_format_and_only_the_operator_sets_in_use(tmp_path: Path) -> None:
    source = saved(tmp_path / "m.onnx", ir=10)
    before = source.read_bytes()
    copy = adapt("old", source, OLD, tmp_path / "copy")
    proto = onnx.load(copy)
    assert copy == tmp_path / "copy" / "m.onnx"
    assert proto.ir_version == 8
    assert [entry.domain for entry in proto.opset_import] == [""]
    assert proto.graph == onnx.load(source).graph
    assert source.read_bytes() == before


def test_what_fits_already_is_given_as_it_is(tmp_path: Path) -> None:
    source = saved(tmp_path / "m.onnx")
    proto = onnx.load(source)
    del proto.opset_import[1]
    onnx.save(proto, source)
    assert adapt("old", source, OLD, tmp_path / "copy") == source
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("external", [True, False])
def test_weights_beside_the_file_come_along_or_move_in(external: bool, tmp_path: Path) -> None:
    proto = onnx.load(saved(tmp_path / "m.onnx", ir=10))
    source = tmp_path / "apart.onnx"
    onnx.save(proto, source, save_as_external_data=True, location="weights.bin", size_threshold=0)
    limits = Limits(runtime="onnxruntime 1.0", ir=8, opset=17, external=external)
    copy = adapt("old", source, limits, tmp_path / "copy")
    assert (copy.parent / "weights.bin").exists() is external
    np.testing.assert_array_equal(numpy_helper.to_array(onnx.load(copy).graph.initializer[0]), np.ones((2, 2)))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"opset": 18},
            "m.onnx: opset 18, and old (onnxruntime 1.0) runs up to 17. Export the model with opset 17 or older.",
        ),
        ({"domain": "my.own"}, "m.onnx: old (onnxruntime 1.0) has no operators of my.own."),
        (
            {"weight": TensorProto.INT4, "ir": 10},
            "m.onnx: weight 'w' is INT4, which onnxruntime 1.0 of old lacks.",
        ),
    ],
)
def test_what_cannot_be_read_is_declined_with_the_reason(
    options: dict[str, int | str], line: str, tmp_path: Path
) -> None:
    source = saved(tmp_path / "m.onnx", **options)  # type: ignore[arg-type]
    with pytest.raises(TargetError) as caught:
        adapt("old", source, OLD, tmp_path / "copy")
    assert str(caught.value) == line
    assert not (tmp_path / "copy").exists()


def test_an_operator_that_crashes_the_runtime_is_declined(tmp_path: Path) -> None:
    proto = onnx.load(saved(tmp_path / "m.onnx"))
    proto.graph.node[0].op_type = "Gemm"
    onnx.save(proto, tmp_path / "m.onnx")
    assert adapt("old", tmp_path / "m.onnx", OLD, tmp_path / "copy").is_file()
    fragile = Limits(runtime="onnxruntime 1.0", ir=8, opset=17, biased=True)
    with pytest.raises(TargetError) as caught:
        adapt("old", tmp_path / "m.onnx", fragile, tmp_path / "copy")
    assert str(caught.value) == (
        "m.onnx: Gemm 'y' has no bias, and old (onnxruntime 1.0) crashes on such a one. "
        "Write a MatMul instead, or give it a bias of zeros."
    )


def test_what_is_no_model_is_declined(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\xff\xff")
    with pytest.raises(TargetError, match=r"^broken\.onnx: not an ONNX model, or damaged\. Export it anew\.$"):
        adapt("old", broken, OLD, tmp_path / "copy")
    other = tmp_path / "m.ort"
    other.write_bytes(b"ORTM")
    with pytest.raises(TargetError, match=r"^m\.ort: old \(onnxruntime 1\.0\) is given \.onnx files"):
        adapt("old", other, OLD, tmp_path / "copy")
