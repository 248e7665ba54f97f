"""Every export computes the same as a torch module as it does in onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from onnxprune.errors import ModelError
from onnxprune.learn.module import OnnxModule, changed
from onnxprune.model import load
from onnxprune.runtime import Feeds, Session, open_session
from tests.matrix.architectures import ARCHITECTURES
from tests.matrix.exporting import CHECKED, ExportFailedError, exported, feeds
from tests.matrix.test_matrix import CELLS

# As a share of the output's largest value; rounding in float32 stays under a hundredth of it.
BOUND = 1e-4


def check(name: str, exporter: str, attention: str) -> None:
    try:
        path = exported(name, exporter, attention)
    except ExportFailedError as failure:
        pytest.skip(f"the exporter gave up: {failure.why}")
    model = load(path)
    session, module = open_session(path), OnnxModule(model)
    batch, length = CHECKED[0]
    # Some exports run at batch 1 alone.
    sample = next(each for each in (feeds(name, batch, length), feeds(name, 1, length)) if _runs(session, each))
    wanted = {key: value for key, value in session.run(sample).items() if value.dtype.kind == "f"}
    assert wanted
    with torch.no_grad():
        mine = {key: value.numpy() for key, value in module(sample).items() if key in wanted}
    for key, value in wanted.items():
        assert mine[key].shape == value.shape
        assert np.abs(mine[key] - value).max() <= BOUND * np.abs(value).max(), key
    assert not changed(model, module)


def _runs(session: Session, sample: Feeds) -> bool:
    try:
        session.run(sample)
    except ModelError:
        return False
    return True


@pytest.mark.parametrize("name", list(ARCHITECTURES))
@pytest.mark.filterwarnings("ignore")
def test_an_architecture_computes_the_same_in_torch(name: str) -> None:
    check(name, "torchscript17", "eager")


@pytest.mark.matrix
@pytest.mark.parametrize(("name", "exporter", "attention"), CELLS)
@pytest.mark.filterwarnings("ignore")
def test_every_export_computes_the_same_in_torch(name: str, exporter: str, attention: str) -> None:
    check(name, exporter, attention)
