"""Weights solved one after the other, each on what those before it have left of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxprune.biases import add_bias
from onnxprune.errors import Declined
from onnxprune.graph import constants
from onnxprune.inputs import Inputs, Source, add_up
from onnxprune.model import Model
from onnxprune.progress import Turn
from onnxprune.protocol import Context
from onnxprune.quantizing.layerwise import Layer, Readings, solved
from onnxprune.quantizing.matrices import Layout, layout_of, sources_of
from onnxprune.quantizing.recipes import Recipe
from onnxprune.quantizing.rounding import Problem, Rounded
from onnxprune.quantizing.solving import Integers, integers_of, problem_of
from onnxprune.sharing import begin
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
    under_way: list[_Begun] = []
    current = model
    turns = list(stages([planned(task, context) for task in tasks], sequential=sequential))
    for at, stage in enumerate(turns, 1):
        sources = {source for plan in stage for source in plan.sources}
        if sources:
            context.progress(Turn(f"solve {_words(stage)}", at, len(turns), kind="solve"))
        found: Mapping[Source, Inputs] = {}
        if sources and context.compare_inputs is not None:
            found = context.compare_inputs(current, model, sources)
        under_way += [_begun(plan, found, moved=current is not model) for plan in stage]
        if not sequential:
            # Nothing waits for them: others may solve these while the next are run here.
            continue
        done |= {one.plan.task.name: one.solution() for one in under_way}
        under_way = []
        if sources:
            current = _with_solved(current, stage, done)
    return done | {one.plan.task.name: one.solution() for one in under_way}


def _with_solved(model: Model, stage: Sequence[Plan], done: Mapping[str, Solution]) -> Model:
    """The model with what a stage has solved in place of its weights."""
    found = {plan.task.name: (plan.task, done[plan.task.name].integers) for plan in stage}
    made = {name: (task, one) for name, (task, one) in found.items() if one is not None}
    result = with_values(model, {name: one.values for name, (_, one) in made.items()})
    for task, one in made.values():
        if "gain" in one.tensors:
            add_bias(result.graph, tuple(task.forms), one.tensors["gain"])
    return result


def _words(stage: Sequence[Plan]) -> str:
    """What is solved, for whoever waits."""
    first, others = stage[0].task.name, len(stage) - 1
    return first if not others else f"{first} and {others} more"


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


def layer_of(plan: Plan, found: Mapping[Source, Inputs], *, moved: bool) -> Layer:
    """The weight and what it reads, as plain data.

    Raises:
        Declined: its readers want different scales.
    """
    task = plan.task
    recipe = task.recipe.without_inputs() if plan.blind else task.recipe
    return Layer(problem_of(task.weight, task.forms, recipe), readings_of(plan, found, moved=moved))


def readings_of(plan: Plan, found: Mapping[Source, Inputs], *, moved: bool) -> Readings | None:
    """What a weight's readers take in; None where its recipe looks at no inputs.

    Args:
        plan: of the weight.
        found: moments of its sources.
        moved: whether the inputs are other than the original's.
    """
    if not plan.sources:
        return None
    task, inputs = plan.task, add_up([found[source] for source in plan.sources])
    if not moved:
        # Not looked at, and as large as the other.
        inputs = replace(inputs, cross=inputs.gram)
    table = any(use.role == "embedding" for use in task.weight.uses)
    # A bias takes up the mean of one group alone.
    return Readings(inputs, moved, table, corrected=task.corrected and plan.layout.size[0] == 1 and not table)


@dataclass(frozen=True, eq=False)
class _Begun:
    """A weight that is being solved, here or elsewhere; or why it is not."""

    plan: Plan
    problem: Problem | None
    answer: Callable[[], Rounded] | None = None
    why: str = ""

    def solution(self) -> Solution:
        """What came of it."""
        if self.problem is None or self.answer is None:
            return Solution(None, why=self.why)
        task = self.plan.task
        try:
            integers = integers_of(task.weight, task.forms, self.problem, self.answer())
        except Declined as reason:
            return Solution(None, why=str(reason))
        return Solution(integers, blind=self.plan.blind)


def _begun(plan: Plan, found: Mapping[Source, Inputs], *, moved: bool) -> _Begun:
    try:
        layer = layer_of(plan, found, moved=moved)
    except Declined as reason:
        return _Begun(plan, None, why=str(reason))
    if layer.problem.recipe.plain:
        # Rounding takes less time than telling others of it.
        found_here = solved(layer)
        return _Begun(plan, layer.problem, lambda: found_here)
    return _Begun(plan, layer.problem, begin(solved, layer))


def with_values(model: Model, values: Mapping[str, Array]) -> Model:
    """A copy whose constants of these names hold other numbers."""
    copy = model.copy()
    for tensor in constants(copy.graph):
        if tensor.name in values:
            tensor.values = values[tensor.name]
    return copy
