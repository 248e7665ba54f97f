"""Zeros by size, and by size times the input's norm, in the linears of the GPT fixture; and gains of norms rescaled."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.papers_gpt import Bench
from onnxprune.calibration import Needs, collect
from onnxprune.graph import producer
from onnxprune.model import Model
from onnxprune.solvers.wanda import Blocks, blocks_mask, magnitude_scores, share_mask, wanda_scores
from onnxprune.weights import Use, Weight, find_weights

Array = np.ndarray[Any, Any]

_CHANNELS, _FACTOR = 6, 16.0


def masks(bench: Bench, model: Model, score: str, sparsity: float | None) -> dict[str, Array]:
    """Of each linear in layout x @ weight, which weights stay; the head is the embedding, and no linear of a block."""
    linears = list(_linears(model))
    sources = {weight.constant.name: use.node.inputs[1 - use.slot].name for weight, use in linears}
    seen = norms(bench, model, frozenset(sources.values())) if score == "wanda" else {}
    found = {}
    for weight, use in linears:
        values = _rows(weight, use)
        scores = magnitude_scores(values)
        if score == "wanda":
            scores = wanda_scores(values, seen[sources[weight.constant.name]])
        stays = blocks_mask(scores, Blocks(2, 4)) if sparsity is None else share_mask(scores, sparsity)
        found[weight.constant.name] = stays.T if use.reads_transposed else stays
    return found


def norms(bench: Bench, model: Model, names: frozenset[str]) -> dict[str, Array]:
    """L2 norms of each column of what linears read, over the calibration samples; collected once a model."""
    key = id(model)
    if key not in bench.held:
        found = collect(model, Needs(columns=names), bench.subject.samples.calibration).columns
        bench.held[key] = {name: columns.norm for name, columns in found.items()}
    held: dict[str, Array] = bench.held[key]
    return held


def masked(bench: Bench, model: Model, score: str, sparsity: float | None) -> Model:
    """The model with such a share of zeros in its linears, or 2:4."""
    held = masks(bench, model, score, sparsity)
    copy = model.copy()
    for weight, _ in _linears(copy):
        values = weight.constant.values
        weight.constant.values = (values * held[weight.constant.name]).astype(values.dtype)
    return copy


def changed(bench: Bench, other: Model, score: str) -> float:
    """Share of the zeros of 70 % that lie elsewhere in a model that computes the same."""
    before, after = (masks(bench, model, score, 0.7) for model in (bench.model, other))
    moved = sum(int((before[name] & ~after[name]).sum()) for name in before)
    return moved / sum(int((~mask).sum()) for mask in before.values())


def rescaled(model: Model, seed: int) -> Model:
    """The same function: some channels of each norm times 16, and the weights that read them divided by it."""
    random = np.random.default_rng(seed)
    copy = model.copy()
    behind: dict[int, tuple[Any, list[tuple[Weight, Use]]]] = {}
    for weight, use in _linears(copy):
        node = producer(use.node.inputs[1 - use.slot])
        while node is not None and node.op in {"Reshape", "Identity"}:
            node = producer(node.inputs[0])
        if node is not None and node.op == "LayerNormalization":
            behind.setdefault(id(node), (node, []))[1].append((weight, use))
    if not behind:
        raise SystemExit("no linear reads a norm: nothing can be rescaled")
    for norm, readers in behind.values():
        factors = np.ones(norm.inputs[1].shape[-1], np.float32)
        factors[random.choice(len(factors), _CHANNELS, replace=False)] = _FACTOR
        for vector in norm.inputs[1:3]:
            vector.values = vector.values * factors
        for weight, use in readers:
            values = weight.constant.values
            weight.constant.values = values / (factors if use.reads_transposed else factors[:, None])
    return copy


def _linears(model: Model) -> Iterator[tuple[Weight, Use]]:
    for weight in find_weights(model.graph, model.overridable):
        roles = {use.role for use in weight.uses}
        if roles == {"linear"} and len(weight.uses) == 1:
            yield weight, weight.uses[0]


def _rows(weight: Weight, use: Use) -> Array:
    values: Array = weight.constant.values
    return values.T if use.reads_transposed else values
