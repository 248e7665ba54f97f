"""What a model's inputs and outputs are for: states that the next call reads, masks that mark padding.

Files do not say so. A wrong guess must not flatter: what is in doubt counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from onnxprune.figures import Array
from onnxprune.runtime import Feeds, Port

# One thing at two times: `past` and `present`, `state_in` and `state_out`, `h0` and `hn`.
_TIMES = {"past", "present", "prev", "previous", "next", "new", "updated"}
_SIDES = {"in", "out", "input", "output", "initial", "init", "final", "n"}
_STATES = {"c", "cache", "cached", "carry", "cell", "conv", "h", "hidden", "key", "kv", "rnn", "state", "value"}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
# `head_mask` chooses heads, `global_attention_mask` what sees everything; a `padding_mask` may mark either side.
_MASK = re.compile(r"mask([:._]\d+)?$")
_NOT_MASK = re.compile(r"pad|global|head|causal")


def state_outputs(inputs: Sequence[Port], outputs: Sequence[Port]) -> frozenset[str]:
    """Outputs that have a counterpart among the inputs: same type and sizes, and one name at two times."""
    return frozenset(output.name for output in outputs if any(_continues(given, output) for given in inputs))


def _continues(given: Port, output: Port) -> bool:
    if given.dtype is None or given.dtype != output.dtype or given.name == output.name:
        return False
    if given.shape and output.shape:
        if len(given.shape) != len(output.shape):
            return False
        pairs = zip(given.shape, output.shape, strict=True)
        if any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs):
            return False
    before, after = _words(given.name), _words(output.name)
    timed = _TIMES & {*before, *after}
    return _subject(before) == _subject(after) and bool(timed or _STATES & set(_subject(after)))


def _words(name: str) -> tuple[str, ...]:
    """`past_key_values.0.key` → past, 0, key; `stateN` → state, n; `h0` → h, 0."""
    spelled = re.sub(r"past_?key_?values?", "past", name, flags=re.IGNORECASE)
    spelled = re.sub(r"^([hc])n$", r"\1_n", spelled)
    words = (word.lower() for word in _WORD.findall(spelled))
    return tuple(word.removesuffix("s") if len(word) > 2 else word for word in words)


def _subject(words: tuple[str, ...]) -> tuple[str, ...]:
    """The words without those that say when; a last 0 says when, too (`h0`), or it stands on both sides."""
    left = tuple(word for word in words if word not in _TIMES | _SIDES)
    return left[:-1] if left[-1:] == ("0",) else left


def padding_masks(inputs: Sequence[Port]) -> tuple[Port, ...]:
    """Inputs [batch, sequence] whose name says that they mark real positions."""
    return tuple(
        port
        for port in inputs
        if len(port.shape) == 2
        and port.dtype is not None
        and port.dtype.kind in "biuf"
        and _MASK.search(port.name.lower())
        and not _NOT_MASK.search(port.name.lower())
    )


def valid_positions(masks: Sequence[Port], feeds: Feeds, output: Port, shape: tuple[int, ...]) -> Array | None:
    """Where an output's positions are real, as booleans that broadcast to `shape`; None where no mask says."""
    for mask in masks:
        values = np.asarray(feeds[mask.name]) if mask.name in feeds else np.zeros(0)
        # A mask without a single 1 in a row marks something else than real positions.
        if values.ndim != 2 or not np.isin(values, (0, 1)).all() or not values.any(axis=1).all():
            continue
        axes = _sequence_axes(mask, values.shape, output, shape)
        if axes:
            valid = np.ones((1,) * len(shape), np.bool_)
            for axis in axes:
                sizes = [1] * len(shape)
                sizes[0], sizes[axis] = values.shape
                valid = valid & values.astype(np.bool_).reshape(sizes)
            return valid
    return None


def _sequence_axes(mask: Port, observed: tuple[int, ...], output: Port, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Axes of an output that run along the mask's sequence."""
    if len(shape) < 2 or len(output.shape) != len(shape) or shape[0] != observed[0]:
        return ()
    symbol = mask.shape[1]
    if isinstance(symbol, str):
        named = tuple(axis for axis, size in enumerate(output.shape) if axis and size == symbol)
        if named:
            return named if all(shape[axis] == observed[1] for axis in named) else ()
    # Exporters leave the output's axis without a name, or with one of its own: then sizes decide, next to the batch.
    dynamic = not isinstance(symbol, int) and not isinstance(output.shape[1], int)
    fixed = isinstance(symbol, int) and isinstance(output.shape[1], int) and len(shape) > 2
    return (1,) if (dynamic or fixed) and shape[1] == observed[1] else ()
