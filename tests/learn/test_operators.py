"""Every operator of the torch module: its results are onnxruntime's, its gradients those of finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnxruntime as ort
import pytest
import torch

from onnxprune.learn import operators
from onnxprune.learn.module import OnnxModule
from onnxprune.model import Model
from onnxprune.model.reading import parse
from tests.learn.cases import CASES, MS, Case

Array = np.ndarray[Any, Any]
SMOOTH = [case for case in CASES if case.smooth and any(x is not None and x.dtype == np.float32 for x in case.inputs)]


def loaded(case: Case) -> Model:
    from pathlib import Path

    return parse(memoryview(case.model().SerializeToString()), Path("case.onnx"))


def reference(case: Case) -> list[Array]:
    """What onnxruntime answers; that of onnx's own reference where onnxruntime has no such kernel."""
    case = case.like or case
    proto = case.model()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    # Several would share a batch out, and each quantize its part by a range of its own.
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [np.asarray(value) for value in session.run(None, case.feeds())]
    except Exception:
        if case.domain:
            raise
        return [np.asarray(value) for value in onnx.reference.ReferenceEvaluator(proto).run(None, case.feeds())]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.filterwarnings("ignore:.*lambda.*|.*overflow.*")
def test_an_operator_gives_what_onnxruntime_gives(case: Case) -> None:
    module = OnnxModule(loaded(case))
    with torch.no_grad():
        got = list(module(case.feeds()).values())
    wanted = reference(case)
    assert len(got) == len(wanted)
    for mine, theirs in zip(got, wanted, strict=True):
        assert tuple(mine.shape) == theirs.shape
        assert (mine.dtype.is_floating_point) or theirs.dtype.kind in "iub"
        # Rounded to integers, halves of float32 may fall either way.
        slack = 1.0 if case.op.startswith("QLinear") else 2e-5
        np.testing.assert_allclose(mine.numpy().astype(np.float64), theirs.astype(np.float64), rtol=2e-5, atol=slack)


@pytest.mark.parametrize("case", SMOOTH, ids=str)
def test_a_gradient_is_that_of_finite_differences(case: Case) -> None:
    module = OnnxModule(loaded(case), floating=torch.float64)
    feeds = case.feeds()
    held = _numbers(case)
    floats = {
        name: torch.from_numpy(x.astype(np.float64)).requires_grad_()
        for name, x in feeds.items()
        if x.dtype == np.float32 and name not in held
    }

    def run(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = {**feeds, **dict(zip(floats, given, strict=True))}
        return tuple(out for out in module(values).values() if out.is_floating_point() and out.requires_grad)

    if not floats:
        # It reads floats as numbers only, such as the type of a CastLike.
        assert case.op in {"CastLike", "Range"} or held
        return
    assert torch.autograd.gradcheck(run, tuple(floats.values()), eps=1e-6, atol=1e-5, rtol=1e-4)


def _numbers(case: Case) -> set[str]:
    """Inputs that the operator reads as numbers."""
    rows = operators.MICROSOFT if case.domain == MS else operators.STANDARD
    return {f"x{slot}" for slot in rows[case.op].host}


def test_every_operator_has_a_case() -> None:
    tried = {(case.domain, case.op) for case in CASES}
    assert {("", name) for name in operators.STANDARD} - tried == set()
    # onnxruntime keeps SimplifiedLayerNormalization in the standard domain.
    assert {(MS, name) for name in operators.MICROSOFT} - tried == {(MS, "SimplifiedLayerNormalization")}
