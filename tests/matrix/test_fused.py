"""Graphs that other optimizers fused are cut like the graphs they were made from."""

from __future__ import annotations

import onnxruntime as ort
import pytest

from tests.equality import BOUND, compare, traced
from tests.matrix.cells import removals
from tests.matrix.exporting import ATTENTIONS, CHECKED, EXPORTERS, PROBES, ExportFailedError, feeds
from tests.matrix.fusing import FUSERS, fused, fused_operators

NAMES = ("bert", "vit", "gpt2", "llama")
# Where the fusers are known to fuse attention itself.
SOME = [("bert", "torchscript17", "eager", "onnxruntime"), ("vit", "dynamo18", "sdpa", "onnxscript")]
SOME += [("llama", "dynamo18", "eager", "onnxscript")]


def check(name: str, exporter: str, attention: str, fuser: str) -> None:
    try:
        path = fused(name, exporter, attention, fuser)
    except ExportFailedError as failure:
        pytest.skip(f"the exporter gave up: {failure.why}")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as refusal:  # noqa: BLE001 - onnxruntime's errors share no base class
        pytest.skip(f"{fuser} broke the model before anything was cut: {str(refusal)[:200]}")
    # The opset-23 export of Llama runs at batch 1 alone.
    alone = name == "llama" and exporter == "dynamo23"
    probes = [feeds(name, 1 if alone else batch, length) for batch, length in PROBES]
    checks = [feeds(name, 1 if alone else batch, length) for batch, length in CHECKED]
    held = traced(path, probes)
    chosen, heads, neurons = removals(held.dimensions)
    assert (heads, neurons) == (2, 2)
    error, moved = compare(held, chosen, checks)
    assert error <= BOUND
    assert moved > 0.01


@pytest.mark.parametrize(("name", "exporter", "attention", "fuser"), SOME)
@pytest.mark.filterwarnings("ignore")
def test_fused_attention_is_cut_exactly(name: str, exporter: str, attention: str, fuser: str) -> None:
    check(name, exporter, attention, fuser)
    operators = fused_operators(fused(name, exporter, attention, fuser))
    assert operators["Attention"] + operators["MultiHeadAttention"] == 2


@pytest.mark.matrix
@pytest.mark.parametrize("fuser", list(FUSERS))
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")
def test_every_fused_export_is_cut_exactly(name: str, exporter: str, attention: str, fuser: str) -> None:
    check(name, exporter, attention, fuser)
