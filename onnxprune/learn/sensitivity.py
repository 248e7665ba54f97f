"""What a model's loss feels of its weights and units: gradients over calibration samples, one sample at a time.

With labels, or next tokens, the loss is theirs. Without, it is the divergence from the original, whose gradient is zero
at the original itself: there its curvature tells, sampled as the Fisher matrix is: labels drawn from the model's own
distribution, or a random direction of its outputs, so that E(dL/dg)² is what leaving g out moves them by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import torch

from onnxprune.dimensions import Dimension
from onnxprune.errors import Declined
from onnxprune.learn import objectives
from onnxprune.learn.call import Tensor
from onnxprune.learn.losses import cross_entropy, of_labels, of_next_tokens
from onnxprune.learn.module import OnnxModule, Slot
from onnxprune.learn.relevance import Propagation
from onnxprune.loss import Loss
from onnxprune.model import Model
from onnxprune.runtime import Feeds, Session
from onnxprune.solvers.taylor import GateGradient, WeightGradient

Array = np.ndarray[Any, Any]
_TINY = 1e-12


@dataclass(frozen=True)
class Sensitivity:
    """Gradients of one job's models.

    Attributes:
        loss: what is measured, with the samples.
        session: of the original, which tells outputs and their roles.
        seed: of random labels and directions.
    """

    loss: Loss
    session: Session
    seed: int = 0

    def weights(self, model: Model) -> dict[str, WeightGradient]:
        """Of every stored float tensor, and every weight stored as integers, by name."""
        module = OnnxModule(model)
        totals = {name: torch.zeros_like(module.parameter(name)) for name in module.names}
        squares = {name: torch.zeros_like(module.parameter(name)) for name in module.names}
        for index, feeds in enumerate(self.loss.feeds):
            module.zero_grad(set_to_none=True)
            self._backward(module, index, feeds, {})
            for name in module.names:
                gradient = module.parameter(name).grad
                if gradient is not None:
                    totals[name] += gradient
                    squares[name] += gradient.square()
        count = len(self.loss.feeds)
        return {
            name: WeightGradient(module.stored(name), totals[name].numpy(), squares[name].numpy() / count)
            for name in module.names
        }

    def gates(self, model: Model, dimensions: Sequence[Dimension]) -> list[GateGradient]:
        """Of the units of each dimension, gated at the input of every consumer."""
        module = OnnxModule(model)
        module.requires_grad_(requires_grad=False)
        gates = [_Gate(model.graph, each) for each in dimensions]
        slots = {slot: gate.at(slot) for gate in gates for slot in gate.places}
        for index, feeds in enumerate(self.loss.feeds):
            for gate in gates:
                gate.clear()
            self._backward(module, index, feeds, slots)
            for gate in gates:
                gate.note()
        return [gate.result(len(self.loss.feeds)) for gate in gates]

    def relevance(self, model: Model, dimensions: Sequence[Dimension]) -> list[Array]:
        """[units] of each dimension: layer-wise relevance of the units at their consumers, shares of the dimension.

        Source: Voita et al. 2019, Analyzing Multi-Head Self-Attention, section 4.2; attention weights held constant.
        """
        module = OnnxModule(model)
        gates = [_Gate(model.graph, each) for each in dimensions]
        totals = [np.zeros(each.units) for each in dimensions]
        for feeds in self.loss.feeds:
            found = Propagation(module, feeds).run(self._targets())
            for at, gate in enumerate(gates):
                units = np.sum([gate.per_unit(found[slot], slot) for slot in gate.places if slot in found], axis=0)
                totals[at] = totals[at] + units / max(float(np.sum(units)), _TINY)
        return [total / len(self.loss.feeds) for total in totals]

    def _targets(self) -> tuple[objectives.Target, ...]:
        language = self.loss.output.name if self.loss.output is not None else None
        return objectives.targets_of(self.session, self.loss.feeds[0], "auto", language=language)

    def _backward(self, module: OnnxModule, index: int, feeds: Feeds, gates: Mapping[Slot, Any]) -> None:
        outputs = module(feeds, gates=gates)
        measure = {"labels": self._labels, "next-token": self._next_token, "divergence": self._divergence}
        objectives.descend(measure[self.loss.kind](outputs, index, feeds))

    def _labels(self, outputs: Mapping[str, Tensor], index: int, feeds: Feeds) -> Tensor:
        port, labels = self.loss.output, self.loss.labels
        if port is None or labels is None:
            raise Declined("the loss has no labels")
        output = outputs[port.name]
        where = objectives.valid(self.session.inputs, feeds, port, tuple(output.shape))
        scores, target = of_labels(output, np.asarray(labels[index])[None], port, where)
        return cross_entropy(scores, target, soft=self._is_soft(port.name))

    def _is_soft(self, name: str) -> bool:
        return any(target.probabilities for target in self._targets() if target.port.name == name)

    def _next_token(self, outputs: Mapping[str, Tensor], index: int, feeds: Feeds) -> Tensor:
        del index
        port, tokens = self.loss.output, self.loss.tokens
        if port is None or tokens is None:
            raise Declined("the loss has no tokens")
        logits = outputs[port.name]
        where = objectives.valid(self.session.inputs, feeds, port, tuple(logits.shape))
        scores, target = of_next_tokens(logits, np.asarray(feeds[tokens.name]), where)
        return cross_entropy(scores, target, soft=False)

    def _divergence(self, outputs: Mapping[str, Tensor], index: int, feeds: Feeds) -> Tensor:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + index)
        losses = []
        for target in self._targets():
            output = outputs[target.port.name].float()
            where = objectives.valid(self.session.inputs, feeds, target.port, tuple(output.shape))
            one = self._drawn if target.kind == "kl" else _direction
            losses.append(one(target, output, where, generator))
        return torch.stack(losses).sum()

    @staticmethod
    def _drawn(target: objectives.Target, output: Tensor, where: Tensor | None, generator: torch.Generator) -> Tensor:
        """Cross-entropy of labels that are drawn from the model's own distribution."""
        logits = output.movedim(target.classes, -1)
        p = logits.detach() if target.probabilities else torch.softmax(logits.detach(), -1)
        flat = torch.clamp(p.reshape(-1, p.shape[-1]), min=0) + _TINY
        labels = torch.multinomial(flat, 1, generator=generator).reshape(p.shape[:-1])
        if where is not None:
            labels[~where.movedim(target.classes, -1)[..., 0].expand(labels.shape)] = -100
        return cross_entropy(logits, labels, soft=target.probabilities)


def _direction(target: objectives.Target, output: Tensor, where: Tensor | None, generator: torch.Generator) -> Tensor:
    """The output along a random direction, in units of its own spread."""
    weight = torch.ones(()) if where is None else where.to(output)
    signs = torch.randint(0, 2, output.shape, generator=generator) * 2.0 - 1.0
    seen = output.detach() * weight
    axes = tuple(axis for axis in range(output.dim()) if axis != target.classes % output.dim())
    count = weight.expand_as(output).sum(axes, keepdim=True).clamp(min=1)
    mean = seen.sum(axes, keepdim=True) / count
    mean = torch.where(count > 1, mean, torch.zeros_like(mean))
    scale = ((output.detach() - mean).square() * weight).sum().sqrt().clamp(min=_TINY)
    return (output * signs * weight).sum() / scale


class _Gate:
    """One number a unit that multiplies it wherever it is summed away."""

    def __init__(self, graph: gs.Graph, dimension: Dimension) -> None:
        self._units = dimension.units
        self._value = torch.ones(dimension.units, requires_grad=True)
        self.places: dict[Slot, tuple[int, Tensor]] = dict(_places(graph, dimension))
        self._passed: list[tuple[Slot, Tensor]] = []
        self._absolute, self._square, self._elementwise = (np.zeros(dimension.units) for _ in range(3))

    def at(self, slot: Slot) -> Callable[[Tensor], Tensor]:
        """What multiplies the input of one consumer."""
        axis, elements = self.places[slot]

        def gate(x: Tensor) -> Tensor:
            vector = torch.ones(x.shape[axis])
            vector = vector.index_put((elements,), self._value[:, None].expand(elements.shape))
            shape = [1] * x.dim()
            shape[axis] = -1
            gated = x * vector.reshape(shape)
            gated.retain_grad()
            self._passed.append((slot, gated))
            return gated

        return gate

    def clear(self) -> None:
        """Forget the sample before."""
        self._value.grad = None
        self._passed.clear()

    def note(self) -> None:
        """Take in a sample's gradient."""
        if self._value.grad is None:
            return
        gradient = self._value.grad.numpy().astype(np.float64)
        self._absolute += np.abs(gradient)
        self._square += gradient**2
        for slot, x in self._passed:
            if x.grad is not None:
                self._elementwise += self.per_unit((x.detach() * x.grad).abs(), slot)

    def per_unit(self, x: Tensor, slot: Slot) -> Array:
        """[units]: entries summed over everything but the units."""
        axis, elements = self.places[slot]
        others = tuple(at for at in range(x.dim()) if at != axis % x.dim())
        entries = x.detach().sum(others) if others else x.detach()
        values: Array = entries.numpy().astype(np.float64)[elements.numpy()].sum(axis=1)
        return values

    def result(self, count: int) -> GateGradient:
        """Means over samples."""
        return GateGradient(self._absolute / count, self._square / count, self._elementwise / count)


def _places(graph: gs.Graph, dimension: Dimension) -> Iterator[tuple[Slot, tuple[int, Tensor]]]:
    nodes = {node.outputs[0].name: node for node in graph.nodes if node.outputs}
    members = {(member.tensor, member.axis): member for member in dimension.members}
    for consumer in dimension.consumers:
        tensor = nodes[consumer.node].inputs[consumer.input]
        member = members.get((tensor.name, consumer.axis))
        if member is None:
            raise Declined(f"{consumer.op} {consumer.node!r} reads its units in an order of its own")
        yield (consumer.node, consumer.input), (consumer.axis, torch.from_numpy(np.asarray(member.elements, np.int64)))
