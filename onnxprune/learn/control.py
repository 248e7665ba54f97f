"""Nodes that hold graphs: which of their bodies runs, on what, and how often."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from onnxprune.learn.call import Call, Tensor, ints, positive

# Runs the graph that an attribute holds, on its inputs.
Body = Callable[[str, Sequence[Tensor]], list[Tensor]]
Control = Callable[[Call, Sequence[Any], Body], list[Tensor]]


def _branch(call: Call, given: Sequence[Any], body: Body) -> list[Tensor]:
    del call
    return body("then_branch" if _holds(given[0]) else "else_branch", ())


def _loop(call: Call, given: Sequence[Any], body: Body) -> list[Tensor]:
    """Loop: (most rounds, condition, carried…) -> carried…, and one stack for each further output."""
    rounds, condition = (*given, None, None)[:2]
    carried = list(given[2:])
    stacks: list[list[Tensor]] = [[] for _ in call.wanted[len(carried) :]]
    at, going = 0, condition is None or _holds(condition)
    while going and (rounds is None or at < int(rounds.reshape(-1)[0])):
        made = body("body", [torch.tensor(at), torch.tensor(going), *carried])
        going, carried = _holds(made[0]), made[1 : 1 + len(carried)]
        for stack, value in zip(stacks, made[1 + len(carried) :], strict=True):
            stack.append(value)
        at += 1
    return [*carried, *(torch.stack(stack) if stack else torch.zeros(0) for stack in stacks)]


def _scan(call: Call, given: Sequence[Any], body: Body) -> list[Tensor]:
    """Scan: (states…, sequences…) -> states…, and one sequence for each further output."""
    count = int(call.get("num_scan_inputs"))
    if call.opset < 9:
        return _batched_scan(call, given, count, body)
    axes = call.get("scan_input_axes", [0] * count)
    sequences = [x.movedim(positive(axis, x.dim()), 0) for x, axis in zip(given[-count:], axes, strict=True)]
    states, stacks = _scanned(call, given[:-count], sequences, call.get("scan_input_directions"), body)
    ways = call.get("scan_output_directions", [0] * len(stacks))
    places = call.get("scan_output_axes", [0] * len(stacks))
    return [*states, *(_stacked(stack, way, at) for stack, way, at in zip(stacks, ways, places, strict=True))]


def _batched_scan(call: Call, given: Sequence[Any], count: int, body: Body) -> list[Tensor]:
    """Scan of opset 8: (lengths, states [batch, …], sequences [batch, steps, …]); what lies beyond a length is zero."""
    states, sequences = given[1:-count], given[-count:]
    batch, steps = sequences[0].shape[:2]
    lengths = [steps] * batch if given[0] is None else ints(given[0])
    rows = []
    for row, length in enumerate(lengths):
        own = [x[row, :length] for x in sequences]
        ends, stacks = _scanned(call, [state[row] for state in states], own, call.get("directions"), body)
        rows.append([*ends, *(_padded(_stacked(stack, 0, 0), steps) for stack in stacks)])
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def _scanned(
    call: Call, states: Sequence[Tensor], sequences: Sequence[Tensor], ways: Sequence[int] | None, body: Body
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """States in the end, and what each further output gave in every step along the sequences' first axis."""
    turned = [x.flip(0) if way else x for x, way in zip(sequences, ways or [0] * len(sequences), strict=True)]
    held = list(states)
    stacks: list[list[Tensor]] = [[] for _ in call.wanted[len(held) :]]
    for step in zip(*turned, strict=True):
        made = body("body", [*held, *step])
        held = made[: len(held)]
        for stack, value in zip(stacks, made[len(held) :], strict=True):
            stack.append(value)
    return held, stacks


def _stacked(stack: Sequence[Tensor], way: int, axis: int) -> Tensor:
    """The steps along an axis, the last one first where `way` is 1."""
    if not stack:
        return torch.zeros(0)
    return torch.stack(list(stack[::-1] if way else stack), axis)


def _padded(value: Tensor, steps: int) -> Tensor:
    missing = value.new_zeros(steps - value.shape[0], *value.shape[1:])
    return torch.cat([value, missing])


def _holds(condition: Tensor) -> bool:
    return bool(condition.reshape(-1)[0])


TABLE: Mapping[str, Control] = {"If": _branch, "Loop": _loop, "Scan": _scan}
