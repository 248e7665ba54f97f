"""Heads of one attention as peers: what closed ones gave is handed to those that stay, and then distilled into them.

A reconstruction from the abstract of Li et al. 2023 (APD); its formulas are not public.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from onnxprune.dimensions import Dimension
from onnxprune.errors import Declined
from onnxprune.inputs import add_up, compare_inputs
from onnxprune.learn import objectives
from onnxprune.learn.call import Tensor
from onnxprune.learn.gated import Gates
from onnxprune.learn.gating import Decide, GateTraining, Price
from onnxprune.learn.procedure import Seen
from onnxprune.learn.trainee import Trainee
from onnxprune.loss import few
from onnxprune.removal import dimension_of
from onnxprune.removal.layers import Layer, layers_of
from onnxprune.runtime import Array, Port, open_session, with_outputs
from onnxprune.sites import Site
from onnxprune.solvers.reconstruction import refit

_CALIBRATION = 256


class PeerTraining(GateTraining):
    """Gates choose heads while weights rest; closed heads are recycled into their peers, which are then distilled.

    What the attention of the original gives after its output projection, all heads together, is what the heads that
    stay are held to: sum over closed heads p of what O_p W_p gave, besides what they gave themselves.
    """

    def __init__(
        self,
        trainee: Trainee,
        sites: Sequence[Site],
        gates: Gates,
        price: Price,
        decide: Decide,
        *,
        rate: float,
        at: int,
        peer: float,
        recycle: bool,
    ) -> None:
        """Gate the heads of some sites.

        Args:
            trainee: in training.
            sites: of the gates' places, in order.
            gates: of heads.
            price: of open gates.
            decide: which stay.
            rate: of logits and prices.
            at: step at which they are decided.
            peer: weight of the distance of attentions; 0: none.
            recycle: whether the heads that stay take over in least squares what the others gave.
        """
        super().__init__(trainee, gates, price, decide, rate=rate, at=at)
        self._peer = peer
        self._recycle = recycle
        dimensions = [dimension_of(site, trainee.structure) for site in sites]
        self._layers = [_layers(trainee, dimension) for dimension in dimensions]
        self.wanted = tuple(dict.fromkeys(c.node for each in dimensions for c in each.consumers)) if peer else ()
        self._teacher = open_session(with_outputs(trainee.model, list(self.wanted)))

    def after_backward(self, step: int) -> None:
        """Weights rest while gates choose, so that heads which go know all that they knew."""
        del step
        if self.values is None:
            for parameter in self.trainee.parameters.values():
                parameter.grad = None

    def decided(self, values: Sequence[Array]) -> None:
        """Closed heads are recycled."""
        if not self._recycle:
            return
        trainee = self.trainee
        samples = few(trainee.samples.calibration, _CALIBRATION)
        sources = {source for layers in self._layers for layer in layers for source in layer.sources}
        if not sources:
            return
        seen = compare_inputs(trainee.model, trainee.model, sources, samples, mask=trainee.mask)
        for layers, value in zip(self._layers, values, strict=True):
            for layer in layers:
                inputs = add_up([seen[source] for source in layer.sources])
                _recycle(trainee.module.parameter(layer.weight), layer, np.flatnonzero(value), inputs.gram)

    def parts(self, parts: Mapping[str, Tensor], seen: Seen) -> Mapping[str, Tensor]:
        """With the distance of what attentions give, once heads are gone."""
        if not self._peer or self.values is None:
            return parts
        theirs = self._teacher.run(seen.feeds)
        distances = []
        for name in self.wanted:
            student = seen.outputs[name].float()
            teacher = torch.from_numpy(np.asarray(theirs[name])).to(student)
            port = Port(name, np.dtype(np.float32), (None,) * teacher.dim())
            where = objectives.valid(self.trainee.original.inputs, seen.feeds, port, tuple(teacher.shape))
            distances.append(objectives.relative_squares(student, teacher, -1, where))
        return {**parts, "peers": self._peer * torch.stack(distances).mean()}


def _layers(trainee: Trainee, dimension: Dimension) -> tuple[Layer, ...]:
    """What sums the heads; nothing where it is no form that is refitted."""
    try:
        return layers_of(trainee.model.graph, dimension)
    except Declined:
        return ()


def _recycle(parameter: torch.nn.Parameter, layer: Layer, kept: Array, gram: Array) -> None:
    """Rows of heads that stay, so that they give what all gave, in least squares; others are left as they are."""
    rows = np.sort(layer.groups[kept].ravel())
    if len(rows) in {0, len(layer.matrix)}:
        return
    solved, _ = refit(layer.matrix, gram, rows)
    whole = layer.matrix.copy()
    whole[rows] = solved
    stored = layer.stored(whole, parameter.detach().cpu().numpy())
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(stored))
