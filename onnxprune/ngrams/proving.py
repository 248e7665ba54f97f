"""Whether tables are a back-off model: how a graph combines them, and whether what they say sums to one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.ngrams.backoff import BackOff, Classes, Table
from onnxprune.ngrams.encoders import default_of, keys_of, values_of
from onnxprune.ngrams.forms import Form
from onnxprune.ngrams.interpreting import interpreted

Array = np.ndarray[Any, Any]

# Probabilities of one history may miss one by so much: seven digits of a file, summed.
SUM = 5e-3
_TRIALS = 512
_CLOSE = 1e-4


@dataclass(frozen=True)
class Encoded:
    """A table as it stands in a node.

    Attributes:
        form: of its key.
        columns: atoms of the key, the most significant first.
    """

    node: gs.Node
    form: Form
    columns: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the tensor that it gives out."""
        return str(self.node.outputs[0].name)

    def keys(self) -> Array:
        """[n] as they stand."""
        return keys_of(self.node)

    def ids(self) -> Array:
        """[n, columns] of its keys."""
        rest = self.keys() - self.form.constant
        found = []
        for column in self.columns:
            digit, rest = np.divmod(rest, self.form.multiples[column])
            found.append(digit)
        return np.stack(found, axis=1)


def combined(
    graph: gs.Graph, output: gs.Tensor, grams: Sequence[Encoded], alphas: Sequence[Encoded], *, linear: bool
) -> float | None:
    """What multiple of the sum of logarithms, in the tables' unit, the output is; 0: its exponential; None: neither."""
    random = np.random.default_rng(0)
    values: dict[str, Array] = {}
    hits: dict[str, Array] = {}
    for table in (*grams, *alphas):
        held = np.asarray(values_of(table.node))
        if linear and (held < 0).any():
            return None
        hits[table.name] = random.random(_TRIALS) < 0.5
        if table is grams[0] and len(grams) > 1:
            hits[table.name] = np.ones(_TRIALS, bool)
        drawn = random.choice(held, _TRIALS)
        values[table.name] = np.where(hits[table.name], drawn, default_of(table.node)).astype(held.dtype)
    known: dict[str, Array] = dict(values)
    for node in graph.nodes:
        value = interpreted(node, known)
        if value is not None and node.outputs[0].name not in values:
            known[node.outputs[0].name] = value
    got = known.get(output.name)
    if got is None or got.shape != (_TRIALS,):
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = {name: np.log(v.astype(np.float64)) if linear else v.astype(np.float64) for name, v in values.items()}
    expected = logs[grams[0].name]
    for table, alpha in zip(grams[1:], alphas, strict=True):
        # What a history without an alpha gets is what the table's default says.
        expected = np.where(hits[table.name], logs[table.name], logs[alpha.name] + expected)
    usable = np.isfinite(expected)
    if usable.sum() < _TRIALS // 2:
        return None
    want, came = expected[usable], got[usable].astype(np.float64)
    return _ratio(want, came, linear=linear)


def _ratio(want: Array, came: Array, *, linear: bool) -> float | None:
    scale = float(np.median(came / np.where(want == 0, 1, want)))
    if np.isfinite(scale) and scale > 0 and np.allclose(came, scale * want, rtol=_CLOSE, atol=_CLOSE):
        return scale
    if linear and np.allclose(came, np.exp(want), rtol=1e-3, atol=1e-12):
        return 0.0
    return None


def model_of(
    word: str, grams: Sequence[Encoded], alphas: Sequence[Encoded], classes: Mapping[str, Classes], unit: float
) -> BackOff:
    """The model of tables whose logarithms times `unit` are natural ones; 0: they hold probabilities."""

    def table(one: Encoded) -> Table:
        return Table(columns=one.columns, ids=one.ids(), values=_logs(np.asarray(values_of(one.node)), unit))

    return BackOff(
        word=word,
        grams=tuple(map(table, grams)),
        alphas=tuple(map(table, alphas)),
        classes=classes,
        unknown=float(_logs(default_of(grams[0].node), unit)),
    )


def _logs(values: Array, unit: float) -> Array:
    with np.errstate(divide="ignore"):
        found: Array = np.log(values.astype(np.float64)) if not unit else values.astype(np.float64) * unit
    return found


def unnormalised(model: BackOff) -> str | None:
    """Why the model is no distribution; None where it is one."""
    first = model.complete(model.grams[0].as_ids())
    groups = [first[name] for name, classes in model.classes.items() if classes.of == model.word]
    group = groups[0] if groups else np.zeros(len(model.grams[0]), np.int64)
    _, number = np.unique(group, return_inverse=True)
    sums = np.bincount(number.ravel(), np.exp(np.minimum(model.grams[0].values, 1.0)))
    if np.abs(sums - 1).max() > SUM:
        return f"its unigrams must sum to one, they sum to {sums[np.abs(sums - 1).argmax()]:.4g}"
    for order in range(2, model.order + 1):
        rows, history = model.histories[order - 2]
        grams, alphas = model.grams[order - 1], model.alphas[order - 2]
        stored = np.bincount(history, np.exp(np.minimum(grams.values, 1.0)), len(rows))
        lower = np.bincount(history, np.exp(np.minimum(model.log_p(grams.as_ids(), order - 1), 1.0)), len(rows))
        at = alphas.find(rows)
        alpha = np.exp(np.where(at >= 0, alphas.values[at], 0.0))
        off = np.abs(stored + alpha * (1 - lower) - 1)
        if off.max() > SUM:
            worst = int(off.argmax())
            total = stored[worst] + alpha[worst] * (1 - lower[worst])
            return f"every history must sum to one, one of {order - 1} words sums to {total:.4g}"
    return None
