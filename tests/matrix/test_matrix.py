"""The matrix as a test: one export an architecture by default, all of them under the marker `matrix`."""

from __future__ import annotations

import pytest

from tests.equality import BOUND
from tests.matrix.architectures import ARCHITECTURES, FURTHER, MATRIX
from tests.matrix.cells import run
from tests.matrix.exporting import ATTENTIONS, EXPORTERS

CELLS = [(name, exporter, attention) for name in MATRIX for exporter in EXPORTERS for attention in ATTENTIONS]


def check(name: str, exporter: str, attention: str) -> None:
    """Heads and neurons are found, and their cut equals masking; an export that fails is no cell of ours."""
    cell = run(name, exporter, attention)
    if cell.failed:
        pytest.skip(f"the exporter gave up: {cell.failed}")
    architecture = ARCHITECTURES[name]
    assert (cell.heads >= 1) == architecture.cuts_heads
    assert (cell.neurons >= 1) == architecture.cuts_neurons
    assert cell.error <= BOUND
    assert cell.moved > 0.01, "units that do not matter prove nothing"


# TorchScript exports in a tenth of dynamo's time, and eager attention exists everywhere.
@pytest.mark.parametrize("name", list(MATRIX))
@pytest.mark.filterwarnings("ignore")
def test_an_architecture_is_cut_exactly(name: str) -> None:
    check(name, "torchscript17", "eager")


@pytest.mark.matrix
@pytest.mark.parametrize(("name", "exporter", "attention"), CELLS)
@pytest.mark.filterwarnings("ignore")
def test_every_export_is_cut_exactly(name: str, exporter: str, attention: str) -> None:
    check(name, exporter, attention)


@pytest.mark.matrix
@pytest.mark.parametrize("name", list(FURTHER))
@pytest.mark.filterwarnings("ignore")
def test_a_further_architecture_is_cut_exactly(name: str) -> None:
    check(name, "torchscript17", "eager")
