"""Arrays in safetensors files are those of the library, and come back as they were."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxprune.memory import place_of
from onnxprune.tensorfile import chunks, read_tensors

NUMBERS = st.sampled_from([np.bool_, np.int8, np.uint8, np.float16, np.int32, np.float32, np.int64, np.float64])
ARRAYS = st.dictionaries(
    st.sampled_from(["a", "b", "ü/0", "a.b"]),
    NUMBERS.flatmap(lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, min_side=0, max_side=3, max_dims=3))),
    max_size=3,
)


def written(path: Path, arrays: Mapping[str, Any], metadata: dict[str, str] | None = None) -> Path:
    path.write_bytes(b"".join(chunks(arrays, metadata)))
    return path


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(arrays=ARRAYS, text=st.text(max_size=20))
def test_what_is_written_comes_back_and_the_library_reads_it(
    tmp_path_factory: pytest.TempPathFactory,
    arrays: dict[str, Any],
    text: str,
) -> None:
    path = written(tmp_path_factory.mktemp("tensors") / "t.safetensors", arrays, {"text": text})
    found, metadata = read_tensors(path)
    theirs = safetensors.numpy.load_file(path)
    assert metadata == {"text": text}
    assert found.keys() == arrays.keys() == theirs.keys()
    for name, array in arrays.items():
        assert found[name].dtype == theirs[name].dtype == array.dtype
        assert found[name].tobytes() == theirs[name].tobytes() == array.tobytes()
        assert found[name].shape == array.shape


def test_arrays_lie_where_the_library_puts_them(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"b": np.ones(3, np.int8), "a": np.ones((2, 3)), "c": np.arange(4, dtype=np.float32)}
    path = written(tmp_path / "t", arrays)
    assert path.read_bytes() == safetensors.numpy.save(arrays)


def test_arrays_are_mapped_not_read(tmp_path: Path) -> None:
    path = written(tmp_path / "t", {"a": np.arange(4.0)})
    (array,) = read_tensors(path)[0].values()
    place = place_of(array)
    assert place is not None
    assert place[0].path == path.resolve()
    assert not array.flags.writeable


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: b"\xff" * 8 + data[8:], lambda _: b""])
def test_a_damaged_file_is_refused(tmp_path: Path, change: object) -> None:
    path = written(tmp_path / "t", {"a": np.arange(4.0)})
    path.write_bytes(change(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises((safetensors.SafetensorError, ValueError, OSError)):
        read_tensors(path)


def test_a_type_that_the_format_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="z: complex128 cannot be stored"):
        list(chunks({"z": np.ones(2, np.complex128)}))
