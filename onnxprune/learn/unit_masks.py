"""Heads and neurons masked as a whole, by what the loss feels of their masks, while training goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from onnxprune.errors import DataError, Declined
from onnxprune.learn.call import Tensor
from onnxprune.learn.gated import Gated, gated_units, show
from onnxprune.learn.procedure import Array, Procedure
from onnxprune.learn.schedules import Cubic
from onnxprune.learn.trainee import Trainee
from onnxprune.sites import find_sites

_KINDS = ("heads", "neurons")
_TINY = 1e-12


class UnitMasks(Procedure):
    """The share of heads, and that of neurons, that a schedule says is masked; one of each place stays at least.

    Units are ranked within their kind by Σ|dL/dmask| since the last masks, each place's scores of length one.

    Source: Michel, Levy and Neubig 2019, Are Sixteen Heads Really Better than One?; as Xu et al. 2022 prune by it.
    """

    def __init__(self, trainee: Trainee, schedule: Cubic) -> None:
        """Find the units.

        Raises:
            DataError: the model has no heads or neurons between stored weights.
        """
        self.places = tuple(_places(trainee))
        if not self.places:
            raise DataError(
                "train: the model must have heads or neurons between stored weights, it has none. Choose over=movement."
            )
        self._schedule = schedule
        self._masks = [torch.ones(one.units).to(trainee.module.device).requires_grad_() for one in self.places]
        self._sums = [torch.zeros_like(mask, requires_grad=False) for mask in self._masks]
        show(trainee.module, self.places, [partial(_same, mask) for mask in self._masks])

    def before_step(self, step: int) -> None:
        """Mask further units where the schedule says so."""
        if not self._schedule.changes(step):
            return
        share = self._schedule(step)
        for kind in _KINDS:
            some = [at for at, one in enumerate(self.places) if one.name.startswith(kind)]
            scores = [self._sums[at].cpu().numpy().astype(np.float64) for at in some]
            kept = [self._masks[at].detach().cpu().numpy() > 0 for at in some]
            for at, mask in zip(some, fewer(scores, kept, share), strict=True):
                with torch.no_grad():
                    self._masks[at].copy_(torch.from_numpy(mask.astype(np.float32)))
        for total in self._sums:
            total.zero_()

    def after_backward(self, step: int) -> None:
        """Take in what the loss felt."""
        del step
        for mask, total in zip(self._masks, self._sums, strict=True):
            if mask.grad is not None:
                total.add_(mask.grad.abs())
                mask.grad = None

    def ready(self, step: int) -> bool:
        """Whether all masks are there."""
        return step > max(self._schedule.begin, self._schedule.end)

    def state(self) -> dict[str, Array]:
        """Masks and sums."""
        pairs = zip(self.places, self._masks, self._sums, strict=True)
        return {
            f"{part}/{one.name}": each.detach().cpu().numpy().copy()
            for one, mask, total in pairs
            for part, each in (("units", mask), ("felt", total))
        }

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Both as they were."""
        with torch.no_grad():
            for one, mask, total in zip(self.places, self._masks, self._sums, strict=True):
                mask.copy_(torch.from_numpy(arrays[f"units/{one.name}"]))
                total.copy_(torch.from_numpy(arrays[f"felt/{one.name}"]))

    def summary(self) -> dict[str, Any]:
        """Units that stay at each place."""
        left = {one.name: int(mask.sum()) for one, mask in zip(self.places, self._masks, strict=True)}
        return {"units": {one.name: {"units": one.units, "kept": left[one.name]} for one in self.places}}


def _same(mask: Tensor) -> Tensor:
    return mask


def fewer(scores: list[Array], kept: list[Array], share: float) -> list[Array]:
    """Masks after the lowest units of all places went, so that `share` of all are gone; what is gone stays so.

    Args:
        scores: [units] of each place.
        kept: [units] of each place, True where a unit is still there.
        share: of all units that go, in [0, 1]; one of each place stays.
    """
    masks = [mask.copy() for mask in kept]
    gone = int(share * sum(map(len, kept)) + 1e-9) - sum(int((~mask).sum()) for mask in kept)
    ranked = sorted(
        (float(score) / max(float(np.linalg.norm(each)), _TINY), place, unit)
        for place, each in enumerate(scores)
        for unit, score in enumerate(each)
        if kept[place][unit]
    )
    for _, place, unit in ranked:
        if gone > 0 and masks[place].sum() > 1:
            masks[place][unit] = False
            gone -= 1
    return masks


def _places(trainee: Trainee) -> Iterator[Gated]:
    for site in find_sites(trainee.model, trainee.structure):
        if site.kind not in _KINDS or site.dimension is None or site.pinned or site.units < 2:
            continue
        try:
            one = gated_units(trainee.model, site, trainee.structure.dimensions.all[site.dimension])
        except Declined:
            # What cannot be written as zeros in stored weights cannot be trained as gone.
            continue
        if set(one.stored) <= set(trainee.parameters):
            yield one
