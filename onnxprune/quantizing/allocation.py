"""How many zeros each weight gets, so that the whole model loses least."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxprune.errors import Declined
from onnxprune.model import Model
from onnxprune.progress import Turn
from onnxprune.protocol import Context
from onnxprune.quantizing.layerwise import Readings, seen_by
from onnxprune.quantizing.matrices import Layout
from onnxprune.quantizing.stages import Plan, Task, planned, readings_of, stages, with_values
from onnxprune.sharing import begin
from onnxprune.solvers import sparsegpt
from onnxprune.solvers.knapsack import least_error

Array = np.ndarray[Any, Any]

# Shares of zeros that a weight may get.
LEVELS = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95])
# A weight whose zeros cost nothing on the samples is believed to cost this share of what the median one does.
_LEAST = 0.05


def allocated(tasks: Sequence[Task], model: Model, context: Context, share: float) -> list[Task]:
    """The tasks with a share of zeros each: together as many as `share` everywhere would be, at the least loss.

    What a weight loses grows with its zeros as optimal brain surgeon's scores add up. How much that matters is
    measured: the loss of the whole model with that weight alone at `share`, the rest as it is.

    Args:
        tasks: those with zeros in their recipes take part.
        model: whose weights they are.
        context: runs it on the calibration samples, and tells its loss.
        share: in (0, 1), of all numbers of the weights that take part.

    Raises:
        Declined: the context tells no loss.
    """
    loss = context.loss
    if loss is None or context.compare_inputs is None:
        raise Declined("allocation=loss needs sample inputs")
    looking = [replace(task, recipe=replace(task.recipe, solver="joint")) for task in tasks if task.recipe.sparse]
    plans = [planned(task, context) for task in looking]
    before = loss(model)
    curves: dict[str, Array] = {}
    costs: dict[str, float] = {}
    looked_at = [plan for plan in plans if plan.sources]
    for stage in stages(looked_at, sequential=False):
        found = context.compare_inputs(model, model, {source for plan in stage for source in plan.sources})
        under_way = []
        for plan in stage:
            readings = readings_of(plan, found, moved=False)
            if readings is not None:
                question = Pruning(plan.task.weight.constant.values, plan.layout, readings, share)
                under_way.append((plan.task.name, begin(pruned, question)))
        for name, answer in under_way:
            context.progress(Turn(f"weigh the zeros of {name}", len(costs) + 1, len(looked_at), kind="allocate"))
            one = answer()
            curves[name] = one.curve
            costs[name] = loss(with_values(model, {name: one.values})) - before
    return _shared_out(tasks, {plan.task.name: plan for plan in plans}, curves, costs, share)


@dataclass(frozen=True, eq=False)
class Pruning:
    """A weight whose zeros are to be weighed: plain data.

    Attributes:
        stored: its numbers.
        share: of them that become zero.
    """

    stored: Array
    layout: Layout
    readings: Readings
    share: float


@dataclass(frozen=True, eq=False)
class Pruned:
    """What zeros cost a weight.

    Attributes:
        values: with the share of zeros, in the stored shape and type.
        curve: [levels], as `_curve` has it.
    """

    values: Array
    curve: Array


def pruned(question: Pruning) -> Pruned:
    """One weight with its zeros, and what more or fewer of them would cost."""
    seen = seen_by(question.stored, question.layout, question.readings)
    found = [
        sparsegpt.solve(matrix, seen.gram[min(at, len(seen.gram) - 1)], sparsity=question.share).values
        for at, matrix in enumerate(seen.target)
    ]
    values = question.layout.stored(np.array(found)).astype(question.stored.dtype)
    return Pruned(values, _curve(seen.target, seen.gram))


def _curve(matrices: Array, gram: Array) -> Array:
    """[levels] what the zeros of a weight lose together, in the order of their scores."""
    scores = [sparsegpt.obs_scores(one, gram[min(at, len(gram) - 1)]).ravel() for at, one in enumerate(matrices)]
    summed = np.concatenate([[0.0], np.cumsum(np.sort(np.concatenate(scores)))])
    return np.asarray(summed[np.floor(LEVELS * (len(summed) - 1)).astype(np.int64)])


def _shared_out(
    tasks: Sequence[Task],
    plans: Mapping[str, Plan],
    curves: Mapping[str, Array],
    costs: Mapping[str, float],
    share: float,
) -> list[Task]:
    names = [name for name in plans if name in curves]
    if not names:
        return list(tasks)
    median = float(np.median([max(costs[name], 0.0) for name in names])) or 1.0
    at_share: Callable[[Array], float] = lambda curve: float(np.interp(share, LEVELS, curve)) or 1.0  # noqa: E731
    errors = [curves[name] / at_share(curves[name]) * max(costs[name], _LEAST * median) for name in names]
    sizes = [float(np.prod(plans[name].layout.size)) for name in names]
    kept = [size * (1 - LEVELS) for size in sizes]
    chosen = least_error(errors, kept, (1 - share) * sum(sizes))
    if chosen is None:
        return list(tasks)
    shares = {name: float(LEVELS[level]) for name, level in zip(names, chosen, strict=True)}
    return [
        replace(task, recipe=replace(task.recipe, sparsity=shares[task.name])) if task.name in shares else task
        for task in tasks
    ]
