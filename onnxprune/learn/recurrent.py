"""Recurrent cells, step by step. Weights are [directions, gates·hidden, …] in onnx's order of gates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from onnxprune.learn.call import Call, Operator, Tensor, entry, ints

Cell = Callable[..., tuple[Tensor, ...]]

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


def _lstm_cell(call: Call, direction: int, weights: dict[str, Tensor]) -> Cell:
    f, g, h = _activations(call, direction, ["Sigmoid", "Tanh", "Tanh"])
    peeps = weights.get("p")
    coupled = bool(call.get("input_forget", 0))

    def step(projected: Tensor, state: Tensor, memory: Tensor) -> tuple[Tensor, ...]:
        i, o, forget, c = (projected + state @ weights["r"].T).chunk(4, dim=-1)
        if peeps is not None:
            of_i, of_o, of_f = peeps.chunk(3)
            i, forget = i + of_i * memory, forget + of_f * memory
        i = f(i)
        kept = 1 - i if coupled else f(forget)
        memory = kept * memory + i * g(c)
        o = f(o if peeps is None else o + of_o * memory)
        return o * h(memory), memory

    return step


def _gru_cell(call: Call, direction: int, weights: dict[str, Tensor]) -> Cell:
    f, g = _activations(call, direction, ["Sigmoid", "Tanh"])
    early = not call.get("linear_before_reset", 0)
    r_z, r_r, r_h = weights["r"].chunk(3)
    b_z, b_r, b_h = weights["rb"].chunk(3)

    def step(projected: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        z, r, h = projected.chunk(3, dim=-1)
        z, r = f(z + state @ r_z.T + b_z), f(r + state @ r_r.T + b_r)
        inner = (r * state) @ r_h.T + b_h if early else r * (state @ r_h.T + b_h)
        return ((1 - z) * g(h + inner) + z * state,)

    return step


def _rnn_cell(call: Call, direction: int, weights: dict[str, Tensor]) -> Cell:
    (f,) = _activations(call, direction, ["Tanh"])
    return lambda projected, state: (f(projected + state @ weights["r"].T + weights["rb"]),)


def _run(
    call: Call, cell: Cell, x: Tensor, states: list[Tensor], lengths: list[int] | None, *, back: bool
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
    del call
    return torch.stack(outputs[::-1] if back else outputs), states


def _recurrent(make: Callable[[Call, int, dict[str, Tensor]], Cell], gates: int, held: int) -> Operator:
    def run(call: Call, x: Tensor, w: Tensor, r: Tensor, *rest: Tensor | None) -> Any:
        bias, lengths, *initial = (*rest, *[None] * (3 + held))[: 3 + held]
        peeps = initial.pop() if held == 2 else None
        hidden = r.shape[2]
        batch_first = bool(call.get("layout", 0))
        x = x.transpose(0, 1) if batch_first else x
        steps, batch = x.shape[:2]
        counts = None if lengths is None or all(n == steps for n in ints(lengths)) else ints(lengths)
        whole, finals = [], []
        for direction in range(w.shape[0]):
            own: dict[str, Tensor] = {"r": r[direction]}
            wb, rb = torch.zeros(2, gates * hidden, dtype=x.dtype, device=x.device)
            if bias is not None:
                wb, rb = bias[direction].chunk(2)
            own["rb"] = rb
            if peeps is not None:
                own["p"] = peeps[direction]
            # GRU adds the second bias inside its gates.
            shift = wb + rb if gates == 4 else wb
            states = [
                torch.zeros(batch, hidden, dtype=x.dtype, device=x.device)
                if start is None
                else (start[:, direction] if batch_first else start[direction])
                for start in initial[:held]
            ]
            back = direction == 1 or call.get("direction", "forward") == "reverse"
            out, last = _run(
                call, make(call, direction, own), x @ w[direction].T + shift, states, counts, back=back
            )  # fmt: skip
            whole.append(out)
            finals.append(last)
        y = torch.stack(whole, 1)
        ends = [torch.stack([last[at] for last in finals]) for at in range(held)]
        if batch_first:
            y, ends = y.permute(2, 0, 1, 3), [end.transpose(0, 1) for end in ends]
        return (y, *ends)[: max(1, len(call.wanted))]

    return entry(run, 4)


TABLE: dict[str, Operator] = {
    "GRU": _recurrent(_gru_cell, 3, 1),
    "LSTM": _recurrent(_lstm_cell, 4, 2),
    "RNN": _recurrent(_rnn_cell, 1, 1),
}
