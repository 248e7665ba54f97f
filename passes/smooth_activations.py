"""Move outliers of activations into the weights behind a norm, so that 8 bits hold the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.calibration import Needs
from onnxprune.errors import DataError, Declined
from onnxprune.graph import elements, fresh_name, numbers
from onnxprune.model import Model
from onnxprune.norms import Norm, find_norms
from onnxprune.plan import Change, Edit, Skip
from onnxprune.protocol import Context, Proposal
from onnxprune.ranges import check_ranges, within
from onnxprune.sites import Site
from onnxprune.solvers.smoothing import smoothing_factors
from onnxprune.weights import Use, Weight

Array = np.ndarray[Any, Any]

# Factors closer to one than this move nothing that 8 bits could tell.
_NOTABLE = 0.02


@dataclass(frozen=True, kw_only=True)
class SmoothActivations:
    """Divide channels of a norm's output, and multiply what reads them, so that none is much larger than the others.

    Outputs do not change but for float rounding; what follows may quantize activations with less loss.

    Attributes:
        alpha: how much of the outliers goes into the weights, in [0, 1].
    """

    name: ClassVar[str] = "smooth-activations"
    lossless: ClassVar[bool] = True
    alpha: Annotated[float, within("[0, 1]")] = 0.5

    def __post_init__(self) -> None:
        """Reject shares that are none."""
        check_ranges(self, self.name)

    def needs(self, model: Model, sites: Sequence[Site]) -> Needs:
        """The largest magnitude of every channel that a norm gives out."""
        del sites
        return Needs(columns=frozenset(norm.output.name for norm in find_norms(model)[0]))

    def propose(self, model: Model, sites: Sequence[Site], context: Context) -> Proposal:
        """One edit a norm, at the site of the first linear that reads it."""
        names = {site.weight: site.id for site in sites}
        norms, why = find_norms(model)
        if norms and context.statistics is None:
            raise DataError(f"{self.name} needs sample inputs. Give --data, or --allow-synthetic to use made-up ones.")
        edits: list[Edit] = []
        skips = [Skip(site=name, why=reason) for name, reason in why.items()]
        for norm in norms:
            site = names[norm.readers[0][0].constant.name]
            columns = context.statistics.columns.get(norm.output.name) if context.statistics is not None else None
            if columns is None or len(columns.max_abs) != norm.width:
                skips.append(Skip(site=site, why="samples do not tell the sizes of its channels"))
                continue
            peaks = np.max([np.abs(_rows(weight, use)).max(axis=1) for weight, use in norm.readers], axis=0)
            factors = smoothing_factors(columns.max_abs, peaks, self.alpha)
            if np.abs(np.log(factors)).max() < _NOTABLE:
                skips.append(Skip(site=site, why="its channels are as large as each other already"))
                continue
            args = {"tensor": norm.output.name, "readers": [use.name for _, use in norm.readers]}
            edits.append(
                Edit(
                    id=f"{self.name}.{site}",
                    pass_name=self.name,
                    site=site,
                    kind="smooth-norm",
                    args=args,
                    tensors={"factors": factors},
                )
            )
        return Proposal(tuple(edits), tuple(skips))

    def apply(self, model: Model, edits: Sequence[Edit]) -> tuple[Model, tuple[Change, ...]]:
        """The model with its norms and weights scaled.

        Raises:
            Declined: an edit does not fit the model.
        """
        result = model.copy()
        norms = {norm.output.name: norm for norm in find_norms(result)[0]}
        changes = []
        for edit in edits:
            norm, factors = norms.get(edit.args["tensor"]), edit.tensors["factors"]
            if norm is None or [use.name for _, use in norm.readers] != edit.args["readers"]:
                raise Declined(f"{edit.site}: the readers of {edit.args['tensor']!r} are not those of the plan")
            if factors.shape != (norm.width,) or not (factors > 0).all():
                raise Declined(f"{edit.site}: {norm.width} positive factors must be given, got {list(factors.shape)}")
            changes.append(_scaled(result.graph, norm, factors, edit.site))
        return result, tuple(changes)


def _rows(weight: Weight, use: Use) -> Array:
    """[k, n] of a weight, one row for each channel that it reads."""
    values: Array = weight.constant.values
    return values.T if use.reads_transposed else values


def _scaled(graph: gs.Graph, norm: Norm, factors: Array, site: str) -> Change:
    held = 0
    for node, slot in norm.vectors:
        # Norms of several layers may share a vector, so that each gets one of its own.
        old = node.inputs[slot]
        alone = len(old.outputs) == 1
        name = old.name if alone else fresh_name(graph, f"{old.name}.smooth")
        values = numbers(old).astype(np.float64) / factors
        held += 0 if alone else elements(old)
        node.inputs[slot] = gs.Constant(name, values.astype(np.float32))
    for weight, use in norm.readers:
        steps = factors if use.reads_transposed else factors[:, None]
        tensor = weight.constant
        tensor.values = (tensor.values * steps.astype(np.float64)).astype(tensor.dtype)
    what = f"{norm.width} channels divided by {factors.min():.2g} … {factors.max():.2g}"
    params = sum(elements(weight.constant) for weight, _ in norm.readers)
    return Change(
        site=site,
        what=f"{what}, and multiplied in {len(norm.readers)} linears",
        params_before=params,
        params_after=params + held,
        bytes_after=4 * held,
    )
