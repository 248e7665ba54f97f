"""Layer-wise relevance: what share of an output each tensor's entries contributed, handed down operator by operator.

Sums share their relevance by contributions, positive and negative ones apart, half to each (alpha = beta = 1/2); where
all have one sign they take it whole, so that relevance is conserved. Biases take it only where nothing else
contributed. Attention weights are held constant; norms, gates and activations hand on what they got. Rows of embeddings
keep what reaches them.

Source: Bach et al. 2015, On Pixel-Wise Explanations; Voita et al. 2019, section 4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from onnxprune.dimensions.tracer import names
from onnxprune.errors import Declined
from onnxprune.learn.call import Tensor
from onnxprune.learn.module import OnnxModule, Slot
from onnxprune.learn.objectives import Target
from onnxprune.learn.steps import Step
from onnxprune.runtime import Feeds

_BINARY = frozenset({"Conv", "ConvTranspose", "Einsum", "FusedMatMul", "Gemm", "MatMul"})
_LINEAR = _BINARY | {"AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum"}
_SUMS = frozenset({"Add", "Sub", "Sum", "Mean"})
_MOVES = names("""
    Cast Concat DepthToSpace Expand Flatten Gather GatherElements GatherND GlobalMaxPool Identity Max MaxPool Min Pad
    ReduceMax Reshape ScatterElements ScatterND Slice SpaceToDepth Split Squeeze Tile Transpose Unsqueeze Where
""")
_NORMS = names("""
    BatchNormalization GroupNormalization InstanceNormalization LayerNormalization LpNormalization RMSNormalization
    SimplifiedLayerNormalization
""")
_PRODUCTS = frozenset({"Mul", "Div", "Pow"})
_ATTENTIONS = frozenset({"Attention", "GroupQueryAttention", "MultiHeadAttention"})
_SKIPS = frozenset({"SkipLayerNormalization", "SkipSimplifiedLayerNormalization"})
_TINY = 1e-12


class Propagation:
    """One sample's relevance."""

    def __init__(self, module: OnnxModule, feeds: Feeds) -> None:
        self._tape: list[tuple[Step, list[Any], tuple[Any, ...]]] = []
        with torch.no_grad():
            self._outputs = module(feeds, record=self._tape)
        given = {name for name, value in feeds.items() if getattr(value, "dtype", None) is not None}
        self._live = self._alive({name for name in given if _is_float(feeds[name])})
        self._relevance: dict[str, Tensor] = {}
        self.slots: dict[Slot, Tensor] = {}
        self.absorbed = 0.0

    def _alive(self, inputs: set[str]) -> set[str]:
        """Tensors that carry data rather than weights, masks or attention weights."""
        live = set(inputs)
        readers: dict[str, set[str]] = {}
        for step, _, _ in self._tape:
            for name in step.inputs:
                readers.setdefault(name, set()).add(step.call.op)
        for step, given, made in self._tape:
            from_data = any(name in live for name in step.inputs)
            is_lookup = step.call.op in {"Gather", "EmbedLayerNormalization"} and _is_float(given[0] if given else None)
            looked_up = step.call.op == "EmbedLayerNormalization" or is_lookup
            weights = step.call.op == "Softmax" and "MatMul" in _behind(step.outputs[0], readers, self._tape)
            if (from_data or looked_up) and not weights:
                live |= {name for name, value in zip(step.outputs, made, strict=False) if name and _is_float(value)}
        return live

    def run(self, targets: Sequence[Target]) -> dict[Slot, Tensor]:
        """Relevance of what each node reads, by node and slot; it adds up to one over a cut through the graph.

        Logits start with the largest of each position, other outputs with the squares of their entries.

        Raises:
            Declined: relevance does not pass some operator.
        """
        for target in targets:
            output = self._outputs[target.port.name]
            if target.kind == "kl":
                start = torch.zeros_like(output).scatter(
                    target.classes, output.argmax(target.classes, keepdim=True), 1.0
                )
            else:
                start = output.square()
            self._add(target.port.name, start / start.sum().clamp(min=_TINY) / len(targets))
        for step, given, _ in reversed(self._tape):
            self._step(step, given)
        # What reached the model's own inputs.
        self.absorbed += sum(float(value.sum()) for value in self._relevance.values())
        return self.slots

    def _add(self, name: str, value: Tensor) -> None:
        held = self._relevance.get(name)
        self._relevance[name] = value if held is None else held + value

    def _step(self, step: Step, given: list[Any]) -> None:
        arrived = [self._relevance.pop(name, None) for name in step.outputs]
        if all(value is None for value in arrived):
            return
        live = [slot for slot, name in enumerate(step.inputs) if name in self._live and _is_float(given[slot])]
        if not live:
            # Rows of an embedding, or constants.
            self.absorbed += sum(float(value.sum()) for value in arrived if value is not None)
            return
        shares = self._shares(step, given, arrived, live)
        for slot, share in shares.items():
            self.slots[step.key, slot] = self.slots.get((step.key, slot), torch.zeros(())) + share
            self._add(step.inputs[slot], share)

    def _shares(self, step: Step, given: list[Any], arrived: list[Any], live: list[int]) -> dict[int, Tensor]:
        op, out = step.call.op, arrived[0]
        if op in _MOVES:
            return _moved(step, given, arrived, live)
        if op in _SKIPS:
            whole = torch.stack([value for value in (out, *arrived[3:]) if value is not None]).sum(0)
            inputs = [slot for slot in live if slot < 2]
            return _split([given[slot] for slot in inputs], whole, inputs)
        if out is None:
            raise Declined(f"relevance does not pass output 1 of {op} {step.key!r}")
        if op in _SUMS:
            signed = [-given[slot] if op == "Sub" and slot == 1 else given[slot] for slot in live]
            return _split(signed, out, live)
        return self._through(step, given, out, live)

    def _through(self, step: Step, given: list[Any], out: Tensor, live: list[int]) -> dict[int, Tensor]:
        op = step.call.op
        if op in _LINEAR:
            return {slot: self._linear(step, given, slot, out / len(live)) for slot in live}
        if op in _ATTENTIONS and 2 in live:
            # Values; queries and keys make the attention weights, which are held constant.
            return {2: self._linear(step, given, 2, out)}
        if op in _PRODUCTS:
            # A quotient hands on to its numerator, a product to both factors.
            takers = live[:1] if op in {"Div", "Pow"} else live
            return {slot: _reduced(out / len(takers), given[slot].shape) for slot in takers}
        if (op in _NORMS or len(live) == 1) and given[live[0]].shape == out.shape:
            return {live[0]: out}
        raise Declined(f"relevance does not pass {op} {step.key!r}")

    def _linear(self, step: Step, given: list[Any], slot: int, relevance: Tensor) -> Tensor:
        """Through a sum of products, by the contribution of every product."""
        other = 1 - slot if step.call.op in _BINARY else None

        def run(value: Tensor, weight: Tensor | None) -> Tensor:
            # Biases take no relevance.
            arguments = list(given if other is None else given[:2])
            arguments[slot] = value
            if other is not None:
                arguments[other] = weight
            made = step.operator.run(step.call, *arguments) if step.operator is not None else value
            result: Tensor = made[0] if isinstance(made, tuple | list) else made
            return result

        if other is None:
            return self._by_sign(given[slot], relevance, lambda up, _: run(up, None), lambda _, down: run(down, None))
        plus, minus = given[other].clamp(min=0), given[other].clamp(max=0)
        return self._by_sign(
            given[slot], relevance,
            lambda up, down: run(up, plus) + run(down, minus),
            lambda up, down: run(up, minus) + run(down, plus),
        )  # fmt: skip

    def _by_sign(
        self,
        x: Tensor,
        relevance: Tensor,
        positive: Callable[[Tensor, Tensor], Tensor],
        negative: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Σ over outputs of contribution x share, contributions of each sign being linear in the parts of x."""
        with torch.enable_grad():
            up, down = x.clamp(min=0).requires_grad_(), x.clamp(max=0).requires_grad_()
            p, n = positive(up, down), negative(up, down)
            by_p, by_n = _divided(relevance, p.detach(), n.detach())
            # What a bias alone has made is the bias's.
            self.absorbed += float(relevance[(p.detach() <= _TINY) & (n.detach() >= -_TINY)].sum())
            total = (p * by_p).sum() + (n * by_n).sum()
            slopes: list[Tensor | None] = list(torch.autograd.grad(total, [up, down], allow_unused=True))
        # A part that nothing reads has no slope.
        parts = [torch.zeros_like(x) if slope is None else slope for slope in slopes]
        return up.detach() * parts[0] + down.detach() * parts[1]


def _behind(name: str, readers: dict[str, set[str]], tape: Sequence[Any], depth: int = 4) -> set[str]:
    """Operators that read a tensor, through a few that only move or guard it."""
    found = set(readers.get(name, ()))
    if depth and found & {"Where", "Cast", "Identity", "Reshape", "IsNaN", "Dropout"}:
        for step, _, _ in tape:
            if name in step.inputs and step.call.op in {"Where", "Cast", "Identity", "Reshape", "Dropout"}:
                found |= _behind(step.outputs[0], readers, tape, depth - 1)
    return found


def _is_float(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.is_floating_point()
    return value is not None and getattr(getattr(value, "dtype", None), "kind", "") == "f"


def _reduced(value: Tensor, shape: torch.Size) -> Tensor:
    """Summed over the axes along which an operand was broadcast."""
    while value.dim() > len(shape):
        value = value.sum(0)
    for axis, size in enumerate(shape):
        if size == 1 and value.shape[axis] != 1:
            value = value.sum(axis, keepdim=True)
    return value


def _divided(relevance: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Relevance for each unit of positive and of negative contribution: half each, or all where one has none."""
    has_p, has_n = positive > _TINY, negative < -_TINY
    # Without any contribution all would be lost: it goes by the other sign then.
    half_p = torch.where(has_p & has_n, 0.5, torch.where(has_p, 1.0, 0.0))
    half_n = torch.where(has_p & has_n, 0.5, torch.where(has_n, 1.0, 0.0))
    by_p = torch.where(has_p, half_p * relevance / positive.clamp(min=_TINY), torch.zeros_like(relevance))
    by_n = torch.where(has_n, half_n * relevance / negative.clamp(max=-_TINY), torch.zeros_like(relevance))
    return by_p, by_n


def _split(parts: Sequence[Tensor], relevance: Tensor, slots: Sequence[int]) -> dict[int, Tensor]:
    """A sum's relevance by what each operand added; equal shares where none added anything."""
    if len(parts) == 1:
        return {slots[0]: _reduced(relevance, parts[0].shape)}
    wide = [part.expand(relevance.shape) for part in parts]
    positive, negative = sum(part.clamp(min=0) for part in wide), sum(part.clamp(max=0) for part in wide)
    by_p, by_n = _divided(relevance, torch.as_tensor(positive), torch.as_tensor(negative))
    empty = (torch.as_tensor(positive) <= _TINY) & (torch.as_tensor(negative) >= -_TINY)
    even = torch.where(empty, relevance / len(parts), torch.zeros_like(relevance))
    return {
        slot: _reduced(part.clamp(min=0) * by_p + part.clamp(max=0) * by_n + even, given.shape)
        for slot, part, given in zip(slots, wide, parts, strict=True)
    }


def _moved(step: Step, given: list[Any], arrived: list[Any], live: list[int]) -> dict[int, Tensor]:
    """Through what only moves entries: back to where they came from."""
    leaves = {slot: given[slot].detach().clone().requires_grad_() for slot in live}
    with torch.enable_grad():
        arguments = [leaves.get(slot, value) for slot, value in enumerate(given)]
        results = step.operator.run(step.call, *arguments) if step.operator is not None else ()
        results = results if isinstance(results, tuple | list) else (results,)
        total = torch.stack(
            [(out * value).sum() for out, value in zip(results, arrived, strict=False) if value is not None]
        ).sum()
        slopes = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    found: list[Tensor | None] = list(slopes)
    return {
        slot: torch.zeros_like(given[slot]) if slope is None else slope
        for slot, slope in zip(leaves, found, strict=True)
    }
