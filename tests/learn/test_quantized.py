"""Integer operators of the torch module: the range of each type is the file's, and weights stay on their grids."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from onnxprune.errors import ModelError
from onnxprune.grids import find_grids
from onnxprune.learn.module import OnnxModule, write_back
from onnxprune.model import Model, to_bytes
from onnxprune.runtime import open_session
from tests import graphs
from tests.graphs import info, node
from tests.learn.cases import MS, r, w
from tests.learn.test_module import deviation, model_of

Array = np.ndarray[Any, Any]
TYPES = {
    "INT4": (-(2**3), 2**3 - 1),
    "UINT4": (0, 2**4 - 1),
    "INT8": (-(2**7), 2**7 - 1),
    "UINT8": (0, 2**8 - 1),
    "INT16": (-(2**15), 2**15 - 1),
    "UINT16": (0, 2**16 - 1),
}


def there_and_back(name: str, zero: int | None, *, by_attribute: bool = False) -> onnx.ModelProto:
    """Floats as integers of a type, and as floats again."""
    kind = TensorProto.DataType.Value(name)
    stored = [numpy_helper.from_array(np.array(0.5, np.float32), "scale")]
    extra = []
    if zero is not None:
        stored.append(helper.make_tensor("zero", kind, [], [zero]))
        extra = ["zero"]
    nodes = [
        node("QuantizeLinear", ["x", "scale", *extra], ["q"], **({"output_dtype": kind} if by_attribute else {})),
        node("DequantizeLinear", ["q", "scale", *extra], ["y"]),
    ]
    proto = graphs.model(nodes, [info("x", (5,))], [info("y", (5,))], opset=21, ir=10)
    proto.graph.initializer.extend(stored)
    return proto


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("form", ["zero point", "zero point and attribute", "attribute"])
def test_a_type_clips_at_its_own_ends(kind: str, form: str) -> None:
    low, high = TYPES[kind]
    zero = None if form == "attribute" else low + 3
    proto = there_and_back(kind, zero, by_attribute="attribute" in form)
    x = np.array([-1e6, -0.5, 0.0, 1.0, 1e6], np.float32)
    # Halves are steps: -1e6 and 1e6 end where the type does, the others are 1 step below zero, on it, and 2 above.
    at = 0 if zero is None else zero
    wanted = [(low - at) / 2, max(-0.5, (low - at) / 2), 0.0, 1.0, (high - at) / 2]
    with torch.no_grad():
        assert OnnxModule(model_of(proto))({"x": x})["y"].tolist() == wanted
    # Optimized, onnxruntime makes unsigned numbers of signed ones and trips over the attribute.
    assert open_session(model_of(proto), level="none").run({"x": x})["y"].tolist() == wanted


def test_a_type_without_a_range_is_refused_by_name() -> None:
    module = OnnxModule(model_of(there_and_back("FLOAT8E4M3FN", None, by_attribute=True)))
    with pytest.raises(ModelError) as told:
        module({"x": np.zeros(5, np.float32)})
    assert str(told.value) == (
        "The torch module lacks a form of an operator: QuantizeLinear 'q': quantizes to float8_e4m3fn."
    )


def lstm(ways: int, *, columns: bool) -> Model:
    """A DynamicQuantizeLSTM over stored weights."""
    scales = (ways, 20) if columns else (ways,)
    stored = {
        "w": w(ways, 3, 20),
        "r": w(ways, 5, 20),
        "w_scale": r(*scales, low=0.5) / 128,
        "w_zero": np.zeros(scales, np.int8),
        "r_scale": r(*scales, low=0.5, seed=1) / 128,
        "r_zero": np.zeros(scales, np.int8),
    }
    names = ["x", "w", "r", "", "", "", "", "", "w_scale", "w_zero", "r_scale", "r_zero"]
    direction = "forward" if ways == 1 else "bidirectional"
    cell = node("DynamicQuantizeLSTM", names, ["y"], domain=MS, hidden_size=5, direction=direction)
    return model_of(graphs.model([cell], [info("x", (4, 2, 3))], [info("y", (4, ways, 2, 5))], stored, domains=[MS]))


@pytest.mark.parametrize("ways", [1, 2])
@pytest.mark.parametrize("columns", [False, True])
def test_weights_of_a_quantized_lstm_train_on_their_grid(ways: int, *, columns: bool) -> None:
    model = lstm(ways, columns=columns)
    module = OnnxModule(model)
    x = r(4, 2, 3)
    assert set(find_grids(model.graph)) == set(module.names) == {"w", "r"}
    assert deviation(model, {"x": x}, module) <= 1e-4
    assert to_bytes(write_back(model, module)) == to_bytes(model)
    module({"x": x})["y"].square().sum().backward()
    gradients = [parameter.grad for parameter in module.parameters()]
    assert all(gradient is not None and float(gradient.abs().max()) > 0 for gradient in gradients)
    with torch.no_grad():
        for parameter in module.parameters():
            # No product of an integer with it ends near a half.
            parameter.mul_(0.7071)
    trained = write_back(model, module)
    assert to_bytes(trained) != to_bytes(model)
    assert deviation(trained, {"x": x}, module) <= 1e-4


def test_rows_of_several_lengths_are_refused() -> None:
    model = lstm(1, columns=False)
    (cell,) = model.graph.nodes
    import onnx_graphsurgeon as gs

    cell.inputs[4] = gs.Constant("lengths", np.array([4, 2], np.int32))
    with pytest.raises(ModelError) as told:
        OnnxModule(model)({"x": r(4, 2, 3)})
    assert str(told.value) == (
        "The torch module lacks a form of an operator: DynamicQuantizeLSTM 'y': "
        "rows of several lengths share one range."
    )
