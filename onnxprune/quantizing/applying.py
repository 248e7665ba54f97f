"""A plan's weights written into a model, and what that changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune import int8
from onnxprune.biases import add_bias
from onnxprune.errors import Declined
from onnxprune.graph import constants, storage, stored_bytes
from onnxprune.int8_weights import write_weight
from onnxprune.model import Model, raise_opset
from onnxprune.plan import Change, Edit
from onnxprune.weights import find_weights


def apply_edits(model: Model, edits: Sequence[Edit]) -> tuple[Model, tuple[Change, ...]]:
    """The model with its weights replaced; tensors of the edits are written as they are.

    Raises:
        Declined: an edit does not fit the model.
    """
    changes = []
    result = model
    for edit in edits:
        if edit.kind == "raise-opset":
            result = raise_opset(result, int(edit.args["to"]))
            changes.append(_opset_change(edit, model, result))
    result = result.copy()
    for edit in edits:
        if "gain" in edit.tensors:
            add_bias(result.graph, _gaining(edit), edit.tensors["gain"], overridable=result.overridable)
    weights = {weight.constant.name: weight for weight in find_weights(result.graph, result.overridable)}
    writer = int8.Int8Writer(result.graph)
    replaced: list[tuple[Change, list[gs.Constant]]] = []
    for edit in edits:
        if edit.kind == "quantize-weight":
            weight = weights.get(edit.args["weight"])
            if weight is None:
                raise Declined(f"{edit.site}: the model has no weight {edit.args['weight']!r}")
            read = [tensor for use in weight.uses for tensor in (weight.constant, *use.node.inputs)]
            change = write_weight(writer, weight, edit)
            replaced.append((change, [tensor for tensor in read if isinstance(tensor, gs.Constant)]))
    writer.finish()
    result.graph.cleanup(remove_unused_graph_inputs=False)
    alive = {id(tensor) for tensor in constants(result.graph)}
    for change, read in replaced:
        gone = {id(tensor): stored_bytes(tensor) for tensor in read if id(tensor) not in alive}
        alive |= gone.keys()
        changes.append(replace(change, bytes_before=sum(gone.values())))
    return result, tuple(changes)


def _gaining(edit: Edit) -> list[str]:
    """The readers whose bias an edit moves.

    Raises:
        Declined: its gain is no vector of their outputs.
    """
    gain, numbers = edit.tensors["gain"], edit.tensors["weight"]
    if gain.dtype != np.float32 or gain.ndim != 1 or len(gain) not in numbers.shape or not np.isfinite(gain).all():
        raise Declined(
            f"{edit.site}: a bias gains finite float32 numbers, one an output, got {gain.dtype} {list(gain.shape)}"
        )
    return [str(name) for name in edit.args["forms"]]


def _opset_change(edit: Edit, before: Model, after: Model) -> Change:
    (params, size), (params_after, size_after) = storage(before.graph), storage(after.graph)
    return Change(
        site=edit.site,
        what=f"opset {before.graph.opset} became {after.graph.opset}",
        params_before=params,
        params_after=params_after,
        bytes_before=size,
        bytes_after=size_after,
    )
