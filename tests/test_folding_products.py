"""Einsum becomes MatMul, and outputs stay what they were."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxprune.folding import lower_products
from onnxprune.inference import refresh_shapes
from onnxprune.model import load, save
from tests import graphs

SIZES = {letter: size for size, letter in enumerate("abcdefgh", start=2)}


def einsum(
    equation: str, *, stored: int | None = None, shared: bool = False, sizes: dict[str, int] = SIZES
) -> onnx.ModelProto:
    """Einsum(x0, x1); operand number `stored` is a weight, which perhaps another node reads, too."""
    terms = equation.partition("->")[0].split(",")
    generator = np.random.default_rng(0)
    inputs, initializers = [], []
    for at, term in enumerate(terms):
        shape = [sizes[letter] for letter in term]
        if at == stored:
            initializers.append(numpy_helper.from_array(generator.standard_normal(shape).astype(np.float32), f"x{at}"))
        else:
            # The first axis is dynamic.
            inputs.append(helper.make_tensor_value_info(f"x{at}", TensorProto.FLOAT, [term[0], *shape[1:]]))
    nodes = [helper.make_node("Einsum", [f"x{at}" for at in range(len(terms))], ["y"], equation=equation)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * len(equation.partition("->")[2]))]
    if shared:
        nodes.append(helper.make_node("Neg", [f"x{stored}"], ["z"]))
        outputs.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [None] * len(terms[stored or 0])))
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def lowered(proto: onnx.ModelProto, folder: Path, sizes: dict[str, int] = SIZES) -> Counter[str]:
    """The operators that are left, once outputs were compared."""
    path = graphs.saved(proto, folder)
    model = load(path)
    refresh_shapes(model)
    lower_products(model.graph, model.overridable)
    model.graph.cleanup(remove_unused_graph_inputs=False)
    save(model, folder / "lowered.onnx")
    onnx.checker.check_model(str(folder / "lowered.onnx"), full_check=True)
    generator = np.random.default_rng(1)
    terms = proto.graph.node[0].attribute[0].s.decode().partition("->")[0].split(",")
    feeds = {
        entry.name: generator.standard_normal([sizes[letter] for letter in terms[int(entry.name[1])]]).astype(
            np.float32
        )
        for entry in proto.graph.input
    }
    expected, got = (graphs.outputs_of(one, feeds, optimized=False) for one in (path, folder / "lowered.onnx"))
    for name, value in expected.items():
        assert got[name].shape == value.shape
        assert np.abs(got[name] - value).max() <= 1e-5 * np.abs(value).max()
    return Counter(node.op_type for node in onnx.load(folder / "lowered.onnx").graph.node)


@pytest.mark.parametrize(
    ("equation", "stored", "left"),
    [
        # Linears: plain, into heads, out of heads, the weight first, behind a transposed input.
        ("abc,cd->abd", 1, {"MatMul": 1}),
        ("abc,cde->abde", 1, {"MatMul": 1, "Reshape": 1}),
        ("abde,dec->abc", 1, {"Reshape": 1, "MatMul": 1}),
        ("dc,abc->abd", 0, {"MatMul": 1}),
        ("acb,cd->abd", 1, {"Transpose": 1, "MatMul": 1}),
        ("abc,cd->dab", 1, {"MatMul": 1, "Transpose": 1}),
        # Scores and contexts of attention, with heads before positions and after.
        ("abce,abde->abcd", None, {"Transpose": 1, "MatMul": 1}),
        ("acbe,adbe->abcd", None, {"Transpose": 2, "MatMul": 1}),
        ("adbe,acbe->abcd", None, {"Transpose": 2, "MatMul": 1}),
        ("abcd,adbe->acbe", None, {"Transpose": 2, "MatMul": 1}),
    ],
)
def test_a_product_of_matrices_is_written_as_one(
    equation: str, stored: int | None, left: dict[str, int], tmp_path: Path
) -> None:
    assert lowered(einsum(equation, stored=stored), tmp_path) == left


@pytest.mark.parametrize(
    ("equation", "stored"),
    [
        ("ab,ab->ab", None),  # no sum
        ("ab,cd->abcd", 1),  # no sum either
        ("abc,cd->ad", 1),  # b is summed over one operand alone
        ("abc,acd->abd", 1),  # a weight of its own for each a
        ("abc,c->ab", 1),  # a vector
        ("abce,abdf->abcd", None),  # e and f are summed over one operand alone
        ("abcde,abcfe->abcdf", 1),
        ("abcd,aefd->abcef", None),  # two letters of each operand's own
    ],
)
def test_what_is_no_product_of_matrices_is_left_alone(equation: str, stored: int | None, tmp_path: Path) -> None:
    assert lowered(einsum(equation, stored=stored), tmp_path)["Einsum"] == 1


def test_a_weight_that_others_read_keeps_its_form(tmp_path: Path) -> None:
    assert lowered(einsum("abc,cde->abde", stored=1, shared=True), tmp_path) == {"MatMul": 1, "Reshape": 1, "Neg": 1}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_equation_of_two_operands_gives_what_it_gave(data: st.DataObject) -> None:
    letters = data.draw(st.permutations("abcdef"))
    terms = [
        "".join(letters[i] for i in data.draw(st.permutations(range(6)))[: data.draw(st.integers(1, 4))])
        for _ in range(2)
    ]
    known = sorted({*terms[0], *terms[1]})
    result = "".join(data.draw(st.permutations(known))[: data.draw(st.integers(0, len(known)))])
    stored = data.draw(st.sampled_from([None, 0, 1]))
    with tempfile.TemporaryDirectory() as folder:
        lowered(einsum(f"{','.join(terms)}->{result}", stored=stored), Path(folder))
