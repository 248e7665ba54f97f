"""A model whose inputs have one shape each, for providers that take no other; its shape arithmetic is folded away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import onnx
import onnx_graphsurgeon as gs

from onnxprune.errors import OptionError
from onnxprune.model import Model, to_skeleton
from onnxprune.passes.simplify import Simplify
from onnxprune.protocol import Context
from onnxprune.runtime import Session
from onnxprune.signature import read_signature


def fix_shapes(model: Model, session: Session, shapes: Mapping[str, tuple[int, ...]]) -> Model:
    """The model with static inputs; the same symbol gets the same size everywhere.

    Args:
        model: the model with dynamic axes.
        session: of the same model.
        shapes: sizes by input name; inputs that share all their symbols with these need not be named.

    Raises:
        OptionError: no such input, another rank, two sizes for one symbol, or an axis that stays dynamic.
    """
    signature = read_signature(model, session)
    try:
        sizes = signature.bound(shapes)
    except OptionError as error:
        raise OptionError(str(error).replace("--shape:", "--fixed-shapes:", 1)) from error
    fixed = model.copy()
    inputs = {tensor.name: tensor for tensor in fixed.graph.inputs}
    for one in signature.inputs:
        if one.name in shapes:
            shape = tuple(shapes[one.name])
        else:
            try:
                shape = one.shape(sizes)
            except KeyError as symbol:
                raise OptionError(
                    f"--fixed-shapes: input {one.port} stays dynamic at {symbol}. "
                    f"Give {one.name}={'x'.join(str(sizes.get(str(axis), axis)) for axis in one.axes)} with its sizes."
                ) from symbol
        if one.name in inputs:
            inputs[one.name].shape = list(shape)
    for tensor in fixed.graph.outputs:
        _bind(tensor, sizes)
    folded = _folded(fixed)
    _infer_outputs(folded)
    return folded


def _bind(tensor: gs.Tensor, sizes: Mapping[str, int]) -> None:
    """Symbols of an output's shape that have a size now."""
    if tensor.shape is not None and not isinstance(tensor, gs.Constant):
        tensor.shape = [sizes.get(axis, axis) if isinstance(axis, str) else axis for axis in tensor.shape]


def _folded(model: Model) -> Model:
    """Twice, since what the first fold makes constant lets shapes behind it be inferred."""
    one = Simplify()
    for _ in range(2):
        model = one.apply(model, one.propose(model, (), Context()).edits)[0]
    return model


def _infer_outputs(model: Model) -> None:
    """Outputs are described by what follows from the inputs."""
    inferred = onnx.shape_inference.infer_shapes(to_skeleton(_open(model)), data_prop=True).graph.output
    known = {info.name: info.type.tensor_type.shape for info in inferred if info.type.tensor_type.HasField("shape")}
    for tensor in model.graph.outputs:
        dims = known[tensor.name].dim if tensor.name in known else ()
        if isinstance(tensor, gs.Variable) and dims and all(dim.HasField("dim_value") for dim in dims):
            tensor.shape = [dim.dim_value for dim in dims]


def _open(model: Model) -> Model:
    """A copy that claims nothing about its outputs' shapes, so that inference alone speaks."""
    copy = model.copy()
    for tensor in copy.graph.outputs:
        if isinstance(tensor, gs.Variable):
            tensor.shape = None
    return replace(copy, fields=replace(copy.fields, interface={}))
