"""Linears that can be factored, and what the rows that they read are like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.errors import Declined
from onnxprune.inputs import Source, patches_of
from onnxprune.low_rank import factors_of, matrix_of
from onnxprune.model import Model
from onnxprune.protocol import Context
from onnxprune.sites import Site
from onnxprune.weights import Use, Weight

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Linear:
    """A weight that a pair can take the place of.

    Attributes:
        weight: with its readers.
        matrix: [k, n], applied as x @ matrix.
        fisher: [k, n] mean squares of the loss's gradients, for `fwsvd`.
    """

    site: Site
    weight: Weight
    matrix: Array
    fisher: Array | None = None

    @property
    def sources(self) -> tuple[Source, ...]:
        """What each reader multiplies it with."""
        return tuple(_source(use) for use in self.weight.uses)


def linear_of(site: Site, weight: Weight, model: Model) -> Linear:
    """The linear at a site.

    Raises:
        Declined: no pair can take its place, with the reason.
    """
    if weight.constant.name in factors_of(model):
        raise Declined("a low-rank factor already")
    matrix = matrix_of(weight)
    for use in weight.uses:
        if isinstance(use.node.inputs[0], gs.Constant):
            raise Declined("its input is constant")
    return Linear(site, weight, matrix)


def _source(use: Use) -> Source:
    node = use.node
    if use.role != "conv":
        return Source(node.inputs[0].name)
    return Source(node.inputs[0].name, patches_of(node, (1,) * (len(node.inputs[1].shape) - 2)))


@dataclass(frozen=True, eq=False)
class Seen:
    """What the rows x [k] that one reader takes in are like: E[x], E|x| and, where it was asked for, E[xᵀx]."""

    rows: int
    mean: Array
    mean_abs: Array
    gram: Array | None = None


def look(model: Model, linears: Sequence[Linear], context: Context) -> Callable[[Linear], tuple[Seen, ...]]:
    """What each reader of a linear takes in; nothing where there are no sample inputs.

    Raises (when called):
        Declined: a reader's input could not be observed, with the reason.
    """
    images = {source for linear in linears for source in linear.sources if source.patches is not None}
    moments = context.compare_inputs(model, model, images) if images and context.compare_inputs is not None else {}

    def seen(source: Source) -> Seen | None:
        if source in moments:
            one = moments[source]
            # Of a convolution's channels the mean magnitude within samples stands for that over all.
            return Seen(one.rows, one.mean, one.sequence_norm, one.gram / one.rows)
        found = context.statistics
        if source.patches is not None or found is None:
            return None
        if source.tensor in found.missing:
            raise Declined(f"its input is not observed: {found.missing[source.tensor]}")
        columns = found.columns[source.tensor]
        gram = None if columns.gram is None else columns.gram / max(columns.rows, 1)
        return Seen(columns.rows, columns.mean, columns.mean_abs, gram)

    def all_seen(linear: Linear) -> tuple[Seen, ...]:
        return tuple(one for one in map(seen, linear.sources) if one is not None)

    return all_seen
