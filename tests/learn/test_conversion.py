"""Arrays as torch holds them: every type keeps its numbers, or is refused."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxprune.errors import ModelError
from onnxprune.learn.conversion import is_float, on_one_device, to_torch

# A type of the file, its ends (exact in the wider one), and what torch holds it as.
WHOLE: dict[Any, tuple[tuple[int, ...], torch.dtype]] = {
    np.int8: ((-128, 127), torch.int8),
    np.uint8: ((0, 255), torch.uint8),
    np.int16: ((-(2**15), 2**15 - 1), torch.int16),
    np.uint16: ((0, 2**16 - 1), torch.int32),
    np.int32: ((-(2**31), 2**31 - 1), torch.int32),
    np.uint32: ((0, 2**32 - 1), torch.int64),
    np.int64: ((-(2**63), 2**63 - 1), torch.int64),
    np.uint64: ((0, 2**63 - 1), torch.int64),
    ml_dtypes.int4: ((-8, 7), torch.int8),
    ml_dtypes.uint4: ((0, 15), torch.uint8),
    np.bool_: ((0, 1), torch.bool),
}


@pytest.mark.parametrize("dtype", WHOLE, ids=lambda dtype: np.dtype(dtype).name)
def test_whole_numbers_keep_their_values_up_to_the_ends_of_their_type(dtype: Any) -> None:
    ends, held = WHOLE[dtype]
    tensor = to_torch(np.array(ends, dtype), torch.float32)
    assert tensor.dtype == held
    assert tuple(int(value) for value in tensor) == ends


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("floating", [torch.float32, torch.float64])
def test_floats_of_every_width_become_the_one_that_is_computed_in(dtype: Any, floating: torch.dtype) -> None:
    # Halves and eighths are exact in all of them.
    values = np.array([-2.5, 0.0, 0.125, np.inf, -np.inf], dtype)
    tensor = to_torch(values, floating)
    assert is_float(values)
    assert tensor.dtype == floating
    assert tensor.tolist() == [-2.5, 0.0, 0.125, float("inf"), float("-inf")]


def test_doubles_too_large_for_floats_stay_finite_and_infinities_stay_infinite() -> None:
    values = np.array([-1.7e308, 1.7e308, np.inf, 1.0])
    largest = float(np.finfo(np.float32).max)
    assert to_torch(values, torch.float32).tolist() == [-largest, largest, float("inf"), 1.0]
    assert to_torch(values, torch.float64).tolist() == values.tolist()


@settings(deadline=None, max_examples=50)
@given(hnp.arrays(st.sampled_from([np.float32, np.int8, np.uint16, np.bool_]), hnp.array_shapes(min_dims=0)))
def test_a_tensor_is_a_copy_of_the_same_shape(values: np.ndarray[Any, Any]) -> None:
    kept = values.copy()
    tensor = to_torch(values, torch.float32)
    assert tuple(tensor.shape) == values.shape
    np.testing.assert_array_equal(tensor.numpy().astype(values.dtype), kept)
    tensor.zero_()
    np.testing.assert_array_equal(values, kept)


@pytest.mark.parametrize("values", [np.array(["a"], object), np.array(["a"]), np.array([b"a"])])
def test_text_is_refused(values: np.ndarray[Any, Any]) -> None:
    with pytest.raises(ModelError) as told:
        to_torch(values, torch.float32)
    assert str(told.value) == ("The torch module computes with numbers, got text. Recover models without strings.")


def test_whole_numbers_follow_floats_to_their_device_and_sizes_stay() -> None:
    there, here = torch.zeros(2, device="meta"), torch.zeros(2, dtype=torch.int64)
    moved = on_one_device([there, here, None, here], (3,))
    assert [None if x is None else x.device.type for x in moved] == ["meta", "meta", None, "cpu"]
    assert on_one_device([here, None], ()) == [here, None]
