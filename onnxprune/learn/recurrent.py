"""Recurrent cells, step by step. Weights are [directions, gates·hidden, …] in onnx's order of gates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from onnxprune.learn.call import Call, Operator, Tensor, entry, ints
from onnxprune.learn.quantized import dynamic

Cell = Callable[..., tuple[Tensor, ...]]
Times = Callable[[Tensor], Tensor]

_ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "affine": lambda x, a=1.0, b=0.0: a * x + b,
    "elu": lambda x, a=1.0, _=0.0: functional.elu(x, a),
    "hardsigmoid": lambda x, a=0.2, b=0.5: torch.clamp(a * x + b, 0, 1),
    "leakyrelu": lambda x, a=0.01, _=0.0: functional.leaky_relu(x, a),
    "relu": lambda x, *_: torch.relu(x),
    "sigmoid": lambda x, *_: torch.sigmoid(x),
    "softplus": lambda x, *_: functional.softplus(x),
    "softsign": lambda x, *_: functional.softsign(x),
    "tanh": lambda x, *_: torch.tanh(x),
}


def _activations(call: Call, direction: int, default: list[str]) -> list[Callable[[Tensor], Tensor]]:
    names = [str(name) for name in call.get("activations", ())] or default * 2
    own = names[direction * len(default) : (direction + 1) * len(default)]
    limit = call.get("clip")
    known = {name.lower(): _ACTIVATIONS.get(name.lower()) for name in own}
    missing = [name for name in own if known[name.lower()] is None]
    if missing or call.get("activation_alpha") or call.get("activation_beta"):
        raise call.refuse(f"activations {', '.join(missing) or 'with numbers of their own'}")

    def made(function: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: function(x if limit is None else torch.clamp(x, -float(limit), float(limit)))

    return [made(function) for name in own if (function := known[name.lower()]) is not None]


def _lstm_cell(call: Call, direction: int, times: Times, peeps: Tensor | None) -> Cell:
    """`times`: from the state to what it adds to the gates."""
    f, g, h = _activations(call, direction, ["Sigmoid", "Tanh", "Tanh"])
    coupled = bool(call.get("input_forget", 0))

    def step(projected: Tensor, state: Tensor, memory: Tensor) -> tuple[Tensor, ...]:
        i, o, forget, c = (projected + times(state)).chunk(4, dim=-1)
        if peeps is not None:
            of_i, of_o, of_f = peeps.chunk(3)
            i, forget = i + of_i * memory, forget + of_f * memory
        i = f(i)
        kept = 1 - i if coupled else f(forget)
        memory = kept * memory + i * g(c)
        o = f(o if peeps is None else o + of_o * memory)
        return o * h(memory), memory

    return step


def _gru_cell(call: Call, direction: int, r: Tensor, bias: Tensor) -> Cell:
    f, g = _activations(call, direction, ["Sigmoid", "Tanh"])
    early = not call.get("linear_before_reset", 0)
    r_z, r_r, r_h = r.chunk(3)
    b_z, b_r, b_h = bias.chunk(3)

    def step(projected: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        z, reset, h = projected.chunk(3, dim=-1)
        z, reset = f(z + state @ r_z.T + b_z), f(reset + state @ r_r.T + b_r)
        inner = (reset * state) @ r_h.T + b_h if early else reset * (state @ r_h.T + b_h)
        return ((1 - z) * g(h + inner) + z * state,)

    return step


def _rnn_cell(call: Call, direction: int, r: Tensor, bias: Tensor) -> Cell:
    (f,) = _activations(call, direction, ["Tanh"])
    return lambda projected, state: (f(projected + state @ r.T + bias),)


@dataclass(frozen=True)
class _Direction:
    """One way through the steps: what the inputs add to the gates, and the cell."""

    gates: Times
    cell: Cell


def _run(
    cell: Cell, x: Tensor, states: list[Tensor], lengths: list[int] | None, *, back: bool
) -> tuple[Tensor, list[Tensor]]:
    """Steps over projected inputs [steps, batch, gates·hidden]; rows stop at their length."""
    steps = x.shape[0]
    outputs: list[Tensor] = []
    for at in reversed(range(steps)) if back else range(steps):
        fresh = cell(x[at], *states)
        if lengths is not None:
            alive = torch.tensor([[at < length] for length in lengths], device=x.device)
            outputs.append(torch.where(alive, fresh[0], torch.zeros_like(fresh[0])))
            states = [torch.where(alive, new, old) for new, old in zip(fresh, states, strict=True)]
        else:
            outputs.append(fresh[0])
            states = list(fresh)
    return torch.stack(outputs[::-1] if back else outputs), states


def _through(
    call: Call,
    x: Tensor,
    ways: Sequence[_Direction],
    hidden: int,
    lengths: Tensor | None,
    initial: Sequence[Tensor | None],
) -> Any:
    """What every direction makes of the inputs, and its states in the end."""
    batch_first = bool(call.get("layout", 0))
    x = x.transpose(0, 1) if batch_first else x
    steps, batch = x.shape[:2]
    counts = None if lengths is None or all(n == steps for n in ints(lengths)) else ints(lengths)
    whole, finals = [], []
    for direction, way in enumerate(ways):
        states = [
            torch.zeros(batch, hidden, dtype=x.dtype, device=x.device)
            if start is None
            else (start[:, direction] if batch_first else start[direction])
            for start in initial
        ]
        back = direction == 1 or call.get("direction", "forward") == "reverse"
        out, last = _run(way.cell, way.gates(x), states, counts, back=back)
        whole.append(out)
        finals.append(last)
    y = torch.stack(whole, 1)
    ends = [torch.stack([last[at] for last in finals]) for at in range(len(initial))]
    if batch_first:
        y, ends = y.permute(2, 0, 1, 3), [end.transpose(0, 1) for end in ends]
    return (y, *ends)[: max(1, len(call.wanted))]


def _affine(weight: Tensor, bias: Tensor) -> Times:
    return lambda x: x @ weight.T + bias


def _biases(bias: Tensor | None, direction: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Of the inputs and of the state."""
    if bias is None:
        zeros = torch.zeros(like.shape[1], dtype=like.dtype, device=like.device)
        return zeros, zeros
    first, second = bias[direction].chunk(2)
    return first, second


def _lstm(call: Call, x: Tensor, w: Tensor, r: Tensor, *rest: Tensor | None) -> Any:
    bias, lengths, state, memory, peeps = (*rest, *[None] * 5)[:5]
    ways = []
    for direction in range(w.shape[0]):
        of_w, of_r = _biases(bias, direction, w)
        times = _affine(r[direction], torch.zeros_like(of_r))
        cell = _lstm_cell(call, direction, times, None if peeps is None else peeps[direction])
        ways.append(_Direction(_affine(w[direction], of_w + of_r), cell))
    return _through(call, x, ways, r.shape[2], lengths, [state, memory])


def _dynamic_lstm(call: Call, x: Tensor, w: Tensor, r: Tensor, *rest: Tensor | None) -> Any:
    """DynamicQuantizeLSTM: weights are integers [directions, inputs, 4·hidden]; inputs and states become some, too."""
    bias, lengths, state, memory, peeps, w_scale, w_zero, r_scale, r_zero = (*rest, *[None] * 9)[:9]
    if lengths is not None and len(set(ints(lengths))) > 1:
        raise call.refuse("rows of several lengths share one range")
    ways = []
    for direction in range(w.shape[0]):
        of_w, of_r = _biases(bias, direction, x.new_zeros(1, w.shape[2]))
        inputs, states = (
            _quantized_times(call, *(None if part is None else part[direction] for part in parts))
            for parts in ((w, w_scale, w_zero), (r, r_scale, r_zero))
        )
        cell = _lstm_cell(call, direction, states, None if peeps is None else peeps[direction])
        ways.append(_Direction(_shifted(inputs, of_w + of_r), cell))
    return _through(call, x, ways, r.shape[1], lengths, [state, memory])


def _quantized_times(call: Call, weight: Tensor | None, scale: Tensor | None, zero: Tensor | None) -> Times:
    """The product with integers [inputs, outputs] of what is quantized by its own range."""
    if weight is None or scale is None:
        raise call.refuse("weights without a scale")
    whole = weight.to(call.floating) - (0 if zero is None else zero.to(call.floating))

    def times(x: Tensor) -> Tensor:
        integers, step, offset = dynamic(x)
        return ((integers - offset) @ whole) * (step * scale)

    return times


def _shifted(times: Times, bias: Tensor) -> Times:
    return lambda x: times(x) + bias


def _plain(make: Callable[[Call, int, Tensor, Tensor], Cell]) -> Operator:
    """GRU and RNN, whose cells add the state's bias themselves."""

    def run(call: Call, x: Tensor, w: Tensor, r: Tensor, *rest: Tensor | None) -> Any:
        bias, lengths, state = (*rest, *[None] * 3)[:3]
        ways = []
        for direction in range(w.shape[0]):
            of_w, of_r = _biases(bias, direction, w)
            ways.append(_Direction(_affine(w[direction], of_w), make(call, direction, r[direction], of_r)))
        return _through(call, x, ways, r.shape[2], lengths, [state])

    return entry(run, 4)


TABLE: dict[str, Operator] = {
    "GRU": _plain(_gru_cell),
    "LSTM": entry(_lstm, 4),
    "RNN": _plain(_rnn_cell),
}

MICROSOFT: dict[str, Operator] = {"DynamicQuantizeLSTM": entry(_dynamic_lstm, 4)}
