"""What sums, chooses or normalises along axes, where onnxruntime is no judge: gradients, empty axes and ties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.learn.call import Call
from onnxprune.learn.reductions import TABLE, softmax

REDUCTIONS = sorted(name for name in TABLE if name.startswith("Reduce"))
# What each gives for the numbers 1, 2 and 4.
OF_1_2_4 = {
    "ReduceL1": 7.0,
    "ReduceL2": 21**0.5,
    "ReduceLogSum": float(np.log(7)),
    "ReduceLogSumExp": float(np.log(np.exp([1, 2, 4]).sum())),
    "ReduceMax": 4.0,
    "ReduceMean": 7 / 3,
    "ReduceMin": 1.0,
    "ReduceProd": 8.0,
    "ReduceSum": 7.0,
    "ReduceSumSquare": 21.0,
}


def call(op: str, opset: int = 18, **attrs: Any) -> Call:
    return Call(op=op, name="y", opset=opset, attrs=attrs, wanted=(True,), floating=torch.float32)


def run(op: str, x: torch.Tensor, *more: torch.Tensor, opset: int = 18, **attrs: Any) -> Any:
    return TABLE[op].run(call(op, opset, **attrs), x, *more)


@pytest.mark.parametrize("op", REDUCTIONS)
def test_a_reduction_of_1_2_4(op: str) -> None:
    assert float(run(op, torch.tensor([1.0, 2, 4]), keepdims=0)) == pytest.approx(OF_1_2_4[op], rel=1e-6)


@pytest.mark.parametrize("op", REDUCTIONS)
def test_axes_as_an_input_and_as_an_attribute_are_the_same(op: str) -> None:
    x = torch.arange(1.0, 25).reshape(2, 3, 4)
    for axes in ([1], [-1, 0], [0, 1, 2]):
        given_, held = run(op, x, torch.tensor(axes)), run(op, x, opset=11, axes=axes)
        assert torch.equal(given_, held)
        assert given_.shape == torch.Size([1 if at in {axis % 3 for axis in axes} else x.shape[at] for at in range(3)])


@pytest.mark.parametrize("op", REDUCTIONS)
def test_no_axes_are_all_of_them_or_none_where_asked(op: str) -> None:
    x, none = torch.arange(1.0, 7).reshape(2, 3), torch.zeros(0, dtype=torch.int64)
    assert run(op, x, none).shape == (1, 1)
    assert torch.equal(run(op, x, none, noop_with_empty_axes=1), x)


@settings(deadline=None, max_examples=30)
@given(values=st.lists(st.integers(-50, 50), min_size=1, max_size=6))
def test_a_mean_of_whole_numbers_is_cut_towards_zero(values: list[int]) -> None:
    got = run("ReduceMean", torch.tensor(values), keepdims=0)
    assert (got.dtype, int(got)) == (torch.int64, int(sum(values) / len(values)))


@pytest.mark.parametrize(("last", "place"), [(0, 1), (1, 3)])
def test_of_equals_the_first_or_the_last_is_chosen(last: int, place: int) -> None:
    x = torch.tensor([1.0, 5, 2, 5])
    assert int(run("ArgMax", x, axis=0, keepdims=0, select_last_index=last)) == place
    assert int(run("ArgMin", -x, axis=0, keepdims=0, select_last_index=last)) == place


def test_of_equals_the_earlier_stands_first_among_the_top() -> None:
    values, places = run("TopK", torch.tensor([2.0, 7, 7, 1]), torch.tensor([3]))
    assert (values.tolist(), places.tolist()) == ([7, 7, 2], [1, 2, 0])
    values, places = run("TopK", torch.tensor([2.0, 7, 2, 1]), torch.tensor([3]), largest=0)
    assert (values.tolist(), places.tolist()) == ([1, 2, 2], [3, 0, 2])


@pytest.mark.parametrize(
    ("exclusive", "reverse", "sums"),
    [(0, 0, [1, 3, 7]), (1, 0, [0, 1, 3]), (0, 1, [7, 6, 4]), (1, 1, [6, 4, 0])],
)
def test_running_sums_with_and_without_their_own_number(exclusive: int, reverse: int, sums: list[float]) -> None:
    x = torch.tensor([1.0, 2, 4])
    assert run("CumSum", x, torch.tensor(0), exclusive=exclusive, reverse=reverse).tolist() == sums


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
def test_before_opset_13_everything_from_the_axis_on_is_one_row(op: str) -> None:
    x = torch.arange(12.0).reshape(2, 2, 3)
    flat = run(op, x.reshape(2, 6), opset=13, axis=1).reshape(2, 2, 3)
    assert torch.equal(run(op, x, opset=11, axis=1), flat)
    assert not torch.equal(run(op, x, opset=13, axis=1), flat)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), dead=st.booleans())
def test_a_softmax_whose_row_is_all_masked_has_no_gradient(seed: int, dead: bool) -> None:
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal((3, 4)))
    if dead:
        x[1] = -torch.inf
    x.requires_grad_()
    p = softmax(x, 1)
    torch.nan_to_num(p)[:, 0].sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    # The derivative of a softmax's first entry along its row sums to zero.
    assert float(x.grad.sum(1).abs().max()) < 1e-12
    assert bool(torch.isnan(p[1]).all()) == dead
