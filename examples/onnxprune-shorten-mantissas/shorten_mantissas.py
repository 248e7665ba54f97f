"""Keep fewer bits of each float weight's mantissa: the file is as large, and packs smaller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from onnxprune.calibration import Needs
from onnxprune.errors import Declined, OptionError
from onnxprune.graph import numbers
from onnxprune.model import Model
from onnxprune.plan import Change, Edit, Skip
from onnxprune.protocol import Context, Proposal
from onnxprune.sites import Site
from onnxprune.weights import find_weights

Array = np.ndarray[Any, Any]
# A float32 stores so many bits of mantissa.
MANTISSA = 23


def shortened(weight: Array, bits: int) -> Array:
    """The nearest floats whose mantissas have few bits.

    Args:
        weight: float32 [...].
        bits: of mantissa that stay, 1 … 23.

    Returns:
        float32 [...]; each number is off by at most 2^-(bits + 1) of its size.
    """
    drop = MANTISSA - bits
    if drop == 0:
        return weight.copy()
    whole = np.ascontiguousarray(weight).view(np.uint32)
    # Half of the last bit that stays, so that cutting rounds to the nearest.
    rounded = (whole + np.uint32(1 << (drop - 1))) & np.uint32(~((1 << drop) - 1) & 0xFFFFFFFF)
    return rounded.view(np.float32)


@dataclass(frozen=True, kw_only=True)
class ShortenMantissas:
    """Keep few bits of each float weight's mantissa.

    The file is as large as before; gzip, an app store or a package format makes less of it.

    Attributes:
        bits: of mantissa that stay, 1 … 23; 7 is what bfloat16 has.
    """

    name: ClassVar[str] = "shorten-mantissas"
    lossless: ClassVar[bool] = False
    bits: int = 7

    def __post_init__(self) -> None:
        """Refuse what no float has."""
        if not 1 <= self.bits <= MANTISSA:
            raise OptionError(f"{self.name}: bits must be from 1 to {MANTISSA}, got {self.bits}.")

    def needs(self, model: Model, sites: Sequence[Site]) -> Needs:
        """Nothing: the weights say it all."""
        del model, sites
        return Needs()

    def propose(self, model: Model, sites: Sequence[Site], context: Context) -> Proposal:
        """One edit a float32 weight that is not short already; nothing is edited here."""
        del context
        weights = {weight.constant.name: weight for weight in find_weights(model.graph, model.overridable)}
        edits, skips = [], []
        for site in sites:
            if site.weight not in weights:
                continue
            values = numbers(weights[site.weight].constant)
            if values.dtype != np.float32:
                skips.append(Skip(site=site.id, why=f"its numbers are {values.dtype}, not float32"))
            elif np.array_equal(values, shortened(values, self.bits)):
                # A second run changes nothing.
                skips.append(Skip(site=site.id, why="its mantissas are short already"))
            else:
                # What `apply` needs stands in the edit: a plan replays without options and without data.
                args = {"weight": site.weight, "bits": self.bits}
                edits.append(
                    Edit(id=f"{self.name}.{site.id}", pass_name=self.name, site=site.id, kind="shorten", args=args)
                )
        return Proposal(tuple(edits), tuple(skips))

    def apply(self, model: Model, edits: Sequence[Edit]) -> tuple[Model, tuple[Change, ...]]:
        """A new model with shorter numbers; the one that is given stays as it is.

        Raises:
            Declined: an edit does not fit the model.
        """
        result = model.copy()
        weights = {weight.constant.name: weight for weight in find_weights(result.graph, result.overridable)}
        changes = []
        for edit in edits:
            weight, bits = weights.get(edit.args["weight"]), edit.args["bits"]
            # A plan is a stranger's file: it may name what this model has not.
            if weight is None or not isinstance(bits, int) or not 1 <= bits <= MANTISSA:
                raise Declined(f"{edit.site}: no weight {edit.args['weight']!r}, or no bits: {bits!r}")
            values = numbers(weight.constant)
            if values.dtype != np.float32:
                raise Declined(f"{edit.site}: its numbers are {values.dtype}, not float32")
            weight.constant.values = shortened(values, bits)
            changes.append(
                Change(
                    site=edit.site,
                    what=f"{bits} bits of mantissa",
                    params_before=values.size,
                    params_after=values.size,
                    bytes_before=values.nbytes,
                    bytes_after=values.nbytes,
                )
            )
        return result, tuple(changes)
