"""Weights solved one after the other, each on what those before it have left of its inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxprune.biases import add_bias
from onnxprune.errors import Declined
from onnxprune.graph import constants
from onnxprune.inputs import Inputs, Source, add_up
from onnxprune.memory import kept
from onnxprune.model import Model
from onnxprune.protocol import Context
from onnxprune.quantizing.matrices import Layout, layout_of, sources_of
from onnxprune.quantizing.recipes import Recipe
from onnxprune.quantizing.solving import Integers, Seen, solve_weight
from onnxprune.solvers.gram import centred
from onnxprune.solvers.reconstruction import Against, refit
from onnxprune.weights import Weight

Array = np.ndarray[Any, Any]

# Second moments that are collected at once.
_MEMORY_BYTES = 1 << 29


@dataclass(frozen=True, eq=False)
class Task:
    """A weight that is to become integers.

    Attributes:
        forms: of each reader, by name.
        corrected: whether a bias behind it takes up what its mean output loses.
    """

    weight: Weight
    forms: dict[str, str]
    recipe: Recipe
    corrected: bool = False

    @property
    def name(self) -> str:
        """Of the stored weight."""
        return str(self.weight.constant.name)


@dataclass(frozen=True, eq=False)
class Solution:
    """A task's integers; or why there are none.

    Attributes:
        blind: why its inputs were not looked at, though the recipe would have; empty where they were.
    """

    integers: Integers | None
    why: str = ""
    blind: str = ""


def solve_tasks(tasks: Sequence[Task], model: Model, context: Context, *, sequential: bool) -> dict[str, Solution]:
    """Solutions by weight.

    Args:
        tasks: in data order.
        model: whose weights they are.
        context: runs it on the calibration samples.
        sequential: what a weight reads is computed by a model whose earlier weights are integers already, and its
            outputs aim at those of `model`; otherwise all read what they read in `model`.
    """
    done: dict[str, Solution] = {}
    current = model
    for stage in stages([planned(task, context) for task in tasks], sequential=sequential):
        sources = {source for plan in stage for source in plan.sources}
        found: Mapping[Source, Inputs] = {}
        if sources and context.compare_inputs is not None:
            found = context.compare_inputs(current, model, sources)
        solutions = {plan.task.name: _put_by(_solution(plan, found, moved=current is not model)) for plan in stage}
        done |= solutions
        if sequential and sources:
            solved = {name: one.integers for name, one in solutions.items() if one.integers is not None}
            current = with_values(current, {name: one.values for name, one in solved.items()})
            for plan in stage:
                if plan.task.name in solved and "gain" in solved[plan.task.name].tensors:
                    add_bias(current.graph, tuple(plan.task.forms), solved[plan.task.name].tensors["gain"])
    return done


@dataclass(frozen=True, eq=False)
class Plan:
    """A task with what it reads; or why it does without."""

    task: Task
    layout: Layout
    sources: tuple[Source, ...] = ()
    blind: str = ""


def planned(task: Task, context: Context) -> Plan:
    """What a task has to read."""
    layout = layout_of(task.weight)
    if not task.recipe.looks_at_inputs:
        return Plan(task, layout)
    if context.compare_inputs is None:
        return Plan(task, layout, blind="there are no sample inputs")
    try:
        return Plan(task, layout, sources_of(task.weight, layout))
    except Declined as reason:
        return Plan(task, layout, blind=str(reason))


def stages(plans: Sequence[Plan], *, sequential: bool) -> Iterator[list[Plan]]:
    """Plans that are solved on the same run: those of one input, or as many as memory allows."""
    stage: list[Plan] = []
    used = 0
    for plan in plans:
        groups, k, _ = plan.layout.size
        size = 16 * groups * k * k if plan.sources else 0
        apart = plan.sources and any(other.sources and other.sources != plan.sources for other in stage)
        if stage and ((sequential and apart) or used + size > _MEMORY_BYTES):
            yield stage
            stage, used = [], 0
        stage.append(plan)
        used += size
    if stage:
        yield stage


def _solution(plan: Plan, found: Mapping[Source, Inputs], *, moved: bool) -> Solution:
    task = plan.task
    try:
        if not plan.sources:
            recipe = task.recipe.without_inputs() if plan.blind else task.recipe
            return Solution(solve_weight(task.weight, task.forms, recipe), blind=plan.blind)
        seen = seen_by(plan, found, moved=moved)
        solved = solve_weight(task.weight, task.forms, task.recipe, seen)
        return Solution(_corrected(solved, plan, seen))
    except Declined as reason:
        return Solution(None, why=str(reason))


def _put_by(solution: Solution) -> Solution:
    """The same, its integers out of the way where memory is short."""
    if solution.integers is None:
        return solution
    tensors = {name: kept(array) for name, array in solution.integers.tensors.items()}
    return replace(solution, integers=replace(solution.integers, tensors=tensors))


def seen_by(plan: Plan, found: Mapping[Source, Inputs], *, moved: bool) -> Seen:
    """Second moments as means over rows, and what the solve aims at.

    Args:
        plan: with sources.
        found: moments of the sources.
        moved: whether the inputs are other than the original's.
    """
    inputs = add_up([found[source] for source in plan.sources])
    gram = inputs.gram / max(inputs.rows, 1)
    cross = inputs.cross / max(inputs.rows, 1)
    if gram.ndim == 2:
        gram, cross = gram[None], cross[None]
    dense = plan.layout.matrices(plan.task.weight.constant.values).astype(np.float64)
    if any(use.role == "embedding" for use in plan.task.weight.uses):
        # Rows that are looked up count for themselves, and as much as what they are multiplied with.
        gram = gram + np.eye(gram.shape[-1]) * np.trace(gram, axis1=1, axis2=2)[:, None, None] / gram.shape[-1]
        return Seen(gram, dense)
    mean = inputs.mean if task_is_corrected(plan) else None
    means = None if mean is None else (mean, inputs.reference_mean)
    whole = gram if mean is None else np.array([centred(one, mean) for one in gram])
    if not moved:
        return Seen(whole, dense, means)
    every = np.arange(gram.shape[-1])
    target = [
        refit(
            matrix, gram[at], every, mean=None if means is None else means[1],
            against=Against(gram=gram[at], cross=cross[at], mean=mean),
        )[0]
        for at, matrix in zip(np.minimum(np.arange(len(dense)), len(gram) - 1), dense, strict=True)
    ]  # fmt: skip
    return Seen(whole, np.array(target), means)


def task_is_corrected(plan: Plan) -> bool:
    """Whether a bias takes up the mean, so that the solve need not."""
    return plan.task.corrected and plan.layout.size[0] == 1


def _corrected(solved: Integers, plan: Plan, seen: Seen) -> Integers:
    """With what the bias behind the weight gains, so that the mean output is the original's."""
    if seen.means is None:
        return solved
    mean, reference = seen.means
    (before,), (after,) = (
        plan.layout.matrices(values).astype(np.float64) for values in (plan.task.weight.constant.values, solved.values)
    )
    gain = (reference @ before - mean @ after).astype(np.float32)
    return replace(solved, tensors={**solved.tensors, "gain": gain})


def with_values(model: Model, values: Mapping[str, Array]) -> Model:
    """A copy whose constants of these names hold other numbers."""
    copy = model.copy()
    for tensor in constants(copy.graph):
        if tensor.name in values:
            tensor.values = values[tensor.name]
    return copy
