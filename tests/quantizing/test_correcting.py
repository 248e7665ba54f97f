"""What rounding does to mean outputs, where it can be known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxprune.model import load
from onnxprune.quantizing.correcting import output_shift
from onnxprune.weights import find_weights
from tests import graphs


@pytest.mark.parametrize("group", [1, 2])
def test_means_of_another_number_of_channels_say_nothing(tmp_path: Path, group: int) -> None:
    """A search holds means of the whole model over models that it has cut."""
    model = load(graphs.saved(graphs.convolution(group=group), tmp_path))
    weight = next(one for one in find_weights(model.graph) if one.uses[0].role == "conv")
    values = weight.constant.values + np.float32(0.01)
    name = weight.uses[0].node.inputs[0].name
    channels = weight.constant.shape[1] * group
    shift = output_shift(weight, values, {name: np.ones(channels)})
    assert shift is not None
    # Each output sums 0.01 over the taps of its group's channels, which are 1 in the mean.
    taps = np.prod(weight.constant.shape[1:])
    np.testing.assert_allclose(shift, 0.01 * taps, rtol=1e-3)
    assert output_shift(weight, values, {name: np.ones(channels + 2)}) is None
