"""Passes that cut, carried out on a model in training with its own samples."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from onnxprune.errors import DataError, Declined
from onnxprune.inputs import Inputs, Source, compare_inputs
from onnxprune.learn.trainee import Trainee
from onnxprune.loss import few
from onnxprune.model import Model
from onnxprune.protocol import Context
from onnxprune.removal import Removal
from onnxprune.runtime import observe_shapes
from onnxprune.sites import find_sites
from onnxprune.structure import read_structure

# Importance settles on a few hundred samples; Minitron takes 1024.
_CALIBRATION = 512


def cut(trainee: Trainee, model: Model, one: Removal, method: str) -> Model:
    """The model after a pass.

    Args:
        trainee: whose training samples calibrate.
        model: to cut.
        one: the pass.
        method: for messages.

    Raises:
        DataError: the model has nothing that the pass could cut.
    """
    structure = read_structure(model, observe_shapes(model, trainee.probes))
    samples = few(trainee.samples.calibration, _CALIBRATION)

    def compare(current: Model, original: Model, sources: Collection[Source]) -> Mapping[Source, Inputs]:
        return compare_inputs(current, original, sources, samples, mask=trainee.mask)

    context = Context(structure=structure, compare_inputs=compare, original=model, seed=trainee.seed)
    try:
        proposal = one.propose(model, find_sites(model, structure), context)
        if proposal.edits:
            return one.apply(model, proposal.edits)[0]
    except Declined as reason:
        raise DataError(f"{method}: {one.name} declines: {reason}.") from reason
    why = f": {proposal.skips[0].why}" if proposal.skips else ""
    raise DataError(f"{method}: {one.name} found nothing to cut{why}.")
