"""An ONNX graph as a torch module: stored tensors are parameters under their own names, nodes run in graph order.

Floats are computed in one type; whole numbers (shapes, indices) stay on the CPU, outside autograd. What depends on
constants alone is computed once. Weights that are stored as integers are trained as the floats they stand for and
rounded to their grid in each run. Dynamic shapes stay dynamic.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import torch

from onnxprune.errors import ModelError
from onnxprune.graph import constants, numbers
from onnxprune.grids import Grid, find_grids
from onnxprune.interface import interface_of
from onnxprune.learn import control
from onnxprune.learn.call import Tensor, UnsupportedError
from onnxprune.learn.conversion import is_float, on_one_device, to_torch
from onnxprune.learn.quantized import rounded
from onnxprune.learn.steps import Step, numbers_read, steps_of, with_ends
from onnxprune.model import Model

Array = np.ndarray[Any, Any]
Gate = Callable[[Tensor], Tensor]
Slot = tuple[str, int]
Feeds = Mapping[str, Array | Tensor]
# A node, the tensors that it read, the tensors that it made.
Record = list[tuple[Step, list[Any], tuple[Any, ...]]]

# Zeros of an integer weight are held where they are at least this share of it: rounding alone makes a few per cent.
HELD_SHARE = 0.2
_CPU = torch.device("cpu")
_RANDOM = frozenset({"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform"})


class OnnxModule(torch.nn.Module):
    """A model that torch can differentiate.

    Attributes:
        inputs: names of what must be fed.
        outputs: names of what it gives.
        interface: what was cut out of its inputs; feeds from before are cut alike.
        grids: of weights that are stored as integers, by name.
        held: where a weight is zero and stays so, by name.
        names: parameters, in graph order.
        updates: products [m, rank] @ [rank, n] that are added to a parameter [m, …], by its name.
        views: what the graph reads in place of a parameter, computed from it in each run, by its name.
    """

    def __init__(self, model: Model, *, floating: torch.dtype = torch.float32) -> None:
        """Read the graph; every float is computed in `floating`.

        Raises:
            ModelError: it has operators that are not in the tables; all are named.
        """
        super().__init__()
        self.floating = floating
        steps = steps_of(model, floating)
        self.inputs = tuple(tensor.name for tensor in model.graph.inputs)
        self.outputs = tuple(tensor.name for tensor in model.graph.outputs)
        self.interface = interface_of(model.metadata)
        self.grids: dict[str, Grid] = {}
        self.held: dict[str, Tensor] = {}
        self.updates: dict[str, tuple[torch.nn.Parameter, torch.nn.Parameter]] = {}
        self.views: dict[str, Callable[[Tensor], Tensor]] = {}
        self._scales: dict[str, tuple[Tensor, Tensor]] = {}
        self._rounded: dict[str, tuple[int, Tensor]] = {}
        self._constants: dict[str, Tensor] = {}
        self._read_constants(model.graph, model.overridable)
        self.names = tuple(self._parameters)
        self._steps = self._fold(steps)

    def _read_constants(self, graph: gs.Graph, overridable: frozenset[str]) -> None:
        fixed = overridable | numbers_read(graph)
        grids = {name: grid for name, grid in find_grids(graph).items() if name not in fixed}
        # A grid stays while the weights on it move.
        fixed |= {grid.step for grid in grids.values()}
        for constant in constants(graph):
            values, name = numbers(constant), constant.name
            if name in grids:
                self._add_grid(grids[name], values)
                continue
            tensor = to_torch(values, self.floating)
            trained = is_float(values) and values.size > 1 and name not in fixed
            if trained and bool(torch.isfinite(tensor).all()):
                self._add(name, tensor)
                if values.ndim > 1 and bool((tensor == 0).any()):
                    self.held[name] = tensor == 0
            else:
                self._constants[name] = tensor

    def _add(self, name: str, tensor: Tensor) -> None:
        # register_parameter refuses the dots that exporters put into names; nothing else in torch minds them.
        self._parameters[name] = torch.nn.Parameter(tensor)

    def _add_grid(self, grid: Grid, values: Array) -> None:
        self.grids[grid.name] = grid
        self._scales[grid.name] = (to_torch(grid.scale, self.floating), to_torch(grid.zero, self.floating))
        self._add(grid.name, to_torch(grid.floats(values), self.floating))
        zeros = values.astype(np.float64) == grid.zero
        if zeros.mean() >= HELD_SHARE:
            self.held[grid.name] = torch.from_numpy(zeros)

    def parameter(self, name: str) -> torch.nn.Parameter:
        """The parameter of a stored tensor."""
        found = self._parameters[name]
        if found is None:
            raise KeyError(name)
        return found

    @property
    def device(self) -> torch.device:
        """Where parameters lie."""
        return self.parameter(self.names[0]).device if self.names else _CPU

    def _fold(self, steps: Sequence[Step]) -> tuple[Step, ...]:
        """Compute once what no parameter and no input reaches."""
        left: list[Step] = []
        env: dict[str, Any] = self._constants
        with torch.no_grad():
            for step in steps:
                fixed = all(not name or name in env for name in step.inputs) and not step.bodies
                if fixed and step.call.op not in _RANDOM:
                    self._perform(step, env, {})
                else:
                    left.append(step)
        return with_ends(left, {*env, *self.names, *self.outputs})

    def forward(
        self,
        feeds: Feeds,
        wanted: Collection[str] = (),
        gates: Mapping[Slot, Gate] | None = None,
        record: Record | None = None,
    ) -> dict[str, Tensor]:
        """Outputs by name.

        Args:
            feeds: inputs by name; overridable initializers may be left out.
            wanted: tensors of the graph to give out too.
            gates: what to do with the input `slot` of the node whose first output is named, before it is read.
            record: gets every node of the top graph with what it read and made, in order.
        """
        env: dict[str, Any] = {**self._constants, **self._trained()}
        env.update({name: self._fed(value) for name, value in self.interface.fitted(feeds).items()})
        asked = frozenset(wanted)
        for step in self._steps:
            self._perform(step, env, gates or {})
            if record is not None:
                given = [env[name] if name else None for name in step.inputs]
                record.append((step, given, tuple(env[name] if name else None for name in step.outputs)))
            for name in step.dead:
                if name not in asked:
                    env.pop(name, None)
        return {name: env[name] for name in (*self.outputs, *asked)}

    def _fed(self, value: Array | Tensor) -> Tensor:
        tensor = value if isinstance(value, torch.Tensor) else to_torch(np.asarray(value), self.floating)
        return tensor.to(self.device) if tensor.is_floating_point() else tensor

    def _trained(self) -> dict[str, Tensor]:
        """Parameters as the graph reads them: updates added, seen through views, zeros held, integers on their grid."""
        return {name: self._as_read(name, self._viewed(name)) for name in self.names}

    def _viewed(self, name: str) -> Tensor:
        value = self._updated(name)
        return self.views[name](value) if name in self.views else value

    def _updated(self, name: str) -> Tensor:
        value = self.parameter(name)
        if name not in self.updates:
            return value
        left, right = self.updates[name]
        return value + (left @ right).reshape(value.shape)

    def add_updates(self, names: Collection[str], rank: int, seed: int) -> None:
        """Let each of some parameters be changed by a product of a rank alone, zero at first; itself it stays.

        Source: Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models.
        """
        generator = torch.Generator().manual_seed(seed)
        for name in names:
            value = self.parameter(name)
            m, n = value.shape[0], value[0].numel()
            left = torch.randn(m, min(rank, m, n), generator=generator, dtype=self.floating) / m**0.5
            right = torch.zeros(left.shape[1], n, dtype=self.floating)
            self.updates[name] = (
                torch.nn.Parameter(left.to(self.device)),
                torch.nn.Parameter(right.to(self.device)),
            )

    def merge_updates(self) -> None:
        """Add the products into their parameters, for good."""
        with torch.no_grad():
            for name in self.updates:
                self.parameter(name).copy_(self._updated(name))
        self.updates.clear()

    def _as_read(self, name: str, value: Tensor) -> Tensor:
        if name not in self.held and name not in self.grids:
            return value
        if value.requires_grad or name in self.views:
            return self._on_grid(name, value)
        # What is not trained is rounded once: tables of embeddings are large.
        seen, known = self._rounded.get(name, (-1, value))
        version = self.parameter(name)._version  # noqa: SLF001 - torch counts changes nowhere else
        if seen != version:
            known = self._on_grid(name, value)
            self._rounded[name] = (version, known)
        return known

    def _on_grid(self, name: str, value: Tensor) -> Tensor:
        held = self.held.get(name)
        value = value if held is None else value.masked_fill(held, 0.0)
        if name not in self.grids:
            return value
        (scale, zero), grid = self._scales[name], self.grids[name]
        return rounded(value / scale, grid.low - zero, grid.high - zero) + zero

    def _perform(self, step: Step, env: dict[str, Any], gates: Mapping[Slot, Gate]) -> None:
        if step.operator is None:
            given = [env[name] if name else None for name in step.inputs]
            made = control.TABLE[step.call.op](step.call, given, lambda key, x: self._body(step, key, x, env, gates))
            env.update({name: value for name, value in zip(step.outputs, made, strict=True) if name})
            return
        given = [env[name] if name else None for name in step.inputs]
        for slot, value in enumerate(given):
            gate = gates.get((step.key, slot))
            if gate is not None and value is not None:
                given[slot] = gate(value)
        try:
            results = step.operator.run(step.call, *on_one_device(given, step.operator.host))
        except UnsupportedError as reason:
            raise ModelError(f"The torch module lacks a form of an operator: {reason}.") from reason
        results = results if isinstance(results, tuple | list) else (results,)
        env.update({name: value for name, value in zip(step.outputs, results, strict=False) if name})

    def _body(
        self, step: Step, key: str, given: Sequence[Tensor], env: dict[str, Any], gates: Mapping[Slot, Gate]
    ) -> list[Tensor]:
        inner = {**env, **dict(zip(step.given[key], given, strict=True))}
        for each in step.bodies[key]:
            self._perform(each, inner, gates)
        return [inner[name] for name in step.yields[key]]

    def _apply(self, fn: Any, recurse: bool = True) -> OnnxModule:
        """Moving the module moves the floats beside the parameters; whole numbers stay where they are."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._rounded.clear()
        self._constants = {
            name: fn(value) if value.is_floating_point() else value for name, value in self._constants.items()
        }
        self._scales = {name: (fn(scale), fn(zero)) for name, (scale, zero) in self._scales.items()}
        self.held = {name: mask.to(self.device) for name, mask in self.held.items()}
        return self

    def stored(self, name: str) -> Array:
        """The parameter as float64, with its zeros held and, where it has a grid, not yet rounded."""
        value = self._viewed(name).detach().cpu().to(torch.float64)
        held = self.held.get(name)
        values: Array = (value if held is None else value.masked_fill(held.cpu(), 0.0)).numpy()
        return values


def changed(model: Model, module: OnnxModule) -> dict[str, Array]:
    """Stored tensors that the module's parameters differ from, as the file would hold them."""
    found: dict[str, Array] = {}
    for constant in constants(model.graph):
        if constant.name not in module.names:
            continue
        stored, now = numbers(constant), module.stored(constant.name)
        grid = module.grids.get(constant.name)
        if grid is not None:
            values = grid.integers(now, stored.dtype)
        elif np.array_equal(now, to_torch(stored, module.floating).to(torch.float64).numpy()):
            # Narrowed floats would not all round back to themselves.
            continue
        else:
            values = now.astype(stored.dtype)
        if not np.array_equal(values, stored):
            found[constant.name] = values
    return found


def write_back(model: Model, module: OnnxModule) -> Model:
    """The model with the module's parameters; tensors that did not change keep their bytes."""
    return with_weights(model, changed(model, module))


def with_weights(model: Model, weights: Mapping[str, Array]) -> Model:
    """A copy of the model with other numbers in some of its stored tensors."""
    copy = model.copy()
    for constant in constants(copy.graph):
        if constant.name in weights:
            constant.values = weights[constant.name]
    return copy
