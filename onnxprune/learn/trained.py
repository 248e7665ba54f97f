"""Which parameters are trained, and how fast."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import torch

from onnxprune.graph import constants, numbers
from onnxprune.learn.module import OnnxModule
from onnxprune.model import Model

# Fewer numbers than this are no codebook's; more different ones than a byte tells apart neither.
_LARGE = 4096
_CLUSTERS = 256
# Inputs that are tables of rows to look up.
_TABLES: Mapping[str, tuple[int, ...]] = {"EmbedLayerNormalization": (2, 3, 4), "Gather": (0,)}


def embeddings(graph: gs.Graph) -> frozenset[str]:
    """Stored tables whose rows are looked up, and that nothing else reads."""
    return frozenset(
        constant.name
        for constant in constants(graph)
        if len(constant.shape) > 1
        and constant.outputs
        and all(
            slot in _TABLES.get(node.op, ())
            for node in constant.outputs
            for slot, tensor in enumerate(node.inputs)
            if tensor is constant
        )
    )


def trainable(module: OnnxModule, model: Model, *, with_embeddings: bool) -> tuple[str, ...]:
    """Parameters that training may change, in graph order.

    Rows of an embedding that the samples do not hold would stay while their neighbours move: tables stay as they are
    unless asked for. So do clustered weights, whose few numbers would become many.
    """
    tables = frozenset() if with_embeddings else embeddings(model.graph)
    clustered = {tensor.name for tensor in constants(model.graph) if tensor.name in module.names and _clustered(tensor)}
    return tuple(
        name for name in module.names if name not in tables and (name not in clustered or name in module.grids)
    )


def _clustered(constant: gs.Constant) -> bool:
    """Whether a weight holds no more different numbers than a byte can tell apart."""
    values = numbers(constant).reshape(-1)
    if values.size < _LARGE:
        return False
    # Most weights show it in their first few thousand numbers.
    return all(len(np.unique(part)) <= _CLUSTERS for part in (values[:_LARGE], values))


def prepare(
    module: OnnxModule, names: Collection[str], *, rank: int = 0, seed: int = 0
) -> dict[str, torch.nn.Parameter]:
    """Let gradients reach these parameters alone; with a rank, matrices change by products of that rank.

    Returns:
        what an optimizer steps: parameters by name, `{name}.left` and `{name}.right` for products.
    """
    matrices = [name for name in names if rank and module.parameter(name).dim() > 1]
    module.add_updates(matrices, rank, seed)
    for name in module.names:
        module.parameter(name).requires_grad_(name in names and name not in matrices)
    return dict(_stepped(module, names))


def _stepped(module: OnnxModule, names: Collection[str]) -> Iterator[tuple[str, torch.nn.Parameter]]:
    for name in names:
        if name in module.updates:
            left, right = module.updates[name]
            yield f"{name}.left", left
            yield f"{name}.right", right
        else:
            yield name, module.parameter(name)


def groups_of(parameters: Mapping[str, torch.nn.Parameter], decay: float) -> list[dict[str, Any]]:
    """Groups of an optimizer: biases and gains do not decay."""
    wide = [each for each in parameters.values() if each.dim() > 1]
    narrow = [each for each in parameters.values() if each.dim() < 2]
    groups: list[dict[str, Any]] = [{"params": wide, "weight_decay": decay}, {"params": narrow, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
