"""A user's samples are read as documented, and every misuse is told in one line."""

from __future__ import annotations

import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from onnxprune import npz
from onnxprune.data import MAX_SAMPLES, Samples, load_samples
from onnxprune.errors import DataError
from onnxprune.runtime import Port, open_session

IDS = Port("ids", np.dtype(np.int64), ("batch", "sequence"))
MASK = Port("mask", np.dtype(np.int64), ("batch", "sequence"))
IMAGE = Port("image", np.dtype(np.float32), (2, 3, "height", "width"))
SOUND = Port("sound", np.dtype(np.float32), (None, None))
STATE = Port("state", np.dtype(np.float32), (2, None, 4))
RATE = Port("rate", np.dtype(np.int64), ())
TEXT = Port("text", np.dtype(np.object_), ("batch",))


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def whole(*shape: int) -> np.ndarray[Any, Any]:
    return np.arange(np.prod(shape), dtype=np.int64).reshape(shape)


@pytest.fixture(name="archive")
def _archive(tmp_path: Path) -> Path:
    return tmp_path / "data.npz"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_arrays_of_the_inputs_rank_are_cut_along_axis_0(archive: Path) -> None:
    np.savez(archive, ids=whole(5, 7), mask=np.ones((5, 7), np.int64))
    samples = load_samples(str(archive), [IDS, MASK])
    assert len(samples.feeds) == 5
    assert not samples.synthetic
    assert samples.source == str(archive)
    np.testing.assert_array_equal(samples.feeds[2]["ids"], [[14, 15, 16, 17, 18, 19, 20]])
    assert {array.shape for array in samples.feeds[4].values()} == {(1, 7)}


def test_arrays_of_one_more_axis_are_whole_feeds(archive: Path) -> None:
    np.savez(archive, ids=whole(3, 2, 7))
    samples = load_samples(str(archive), [IDS])
    np.testing.assert_array_equal(samples.feeds[1]["ids"], whole(3, 2, 7)[1])


def test_a_static_batch_size_is_the_size_of_a_sample(archive: Path) -> None:
    np.savez(archive, image=floats(6, 3, 4, 5))
    samples = load_samples(str(archive), [IMAGE])
    assert len(samples.feeds) == 3
    np.testing.assert_array_equal(samples.feeds[2]["image"], floats(6, 3, 4, 5)[4:])


def test_scalars_and_states_serve_all_samples(archive: Path) -> None:
    np.savez(archive, sound=floats(4, 16), state=np.zeros((2, 1, 4), np.float32), rate=np.int64(16000))
    samples = load_samples(str(archive), [SOUND, STATE, RATE])
    every = list(samples.feeds)
    assert len(every) == len(samples.feeds) == 4
    for feeds in every:
        assert [feeds[name].shape for name in ("sound", "state", "rate")] == [(1, 16), (2, 1, 4), ()]
        assert isinstance(feeds["rate"], np.ndarray)
        assert feeds["rate"] == 16000


def test_states_and_scalars_may_differ_between_samples(archive: Path) -> None:
    np.savez(archive, state=floats(3, 2, 1, 4), rate=whole(3))
    samples = load_samples(str(archive), [STATE, RATE])
    np.testing.assert_array_equal(samples.feeds[1]["state"], floats(3, 2, 1, 4)[1])
    assert samples.feeds[2]["rate"] == 2


def test_labels_are_kept_apart_and_follow_the_samples(archive: Path) -> None:
    np.savez(archive, ids=whole(8, 3), labels=np.arange(8))
    samples = load_samples(str(archive), [IDS])
    assert samples.labels is not None
    assert samples.calibration_labels is not None
    assert samples.held_out_labels is not None
    assert samples.calibration_labels.tolist() == [0, 1, 2, 4, 5, 6]
    assert samples.held_out_labels.tolist() == [3, 7]
    assert [feeds["ids"][0, 0] for feeds in samples.held_out] == [9, 21]


def test_an_input_of_the_name_labels_is_an_input(archive: Path) -> None:
    np.savez(archive, labels=whole(4, 3))
    samples = load_samples(str(archive), [Port("labels", np.dtype(np.int64), ("batch", 3))])
    assert samples.labels is None
    assert samples.feeds[1]["labels"].tolist() == [[3, 4, 5]]


@given(count=st.integers(1, 40))
def test_every_fourth_sample_is_set_apart_and_never_calibrates(count: int) -> None:
    samples = Samples(feeds=[{"x": np.array(index)} for index in range(count)], source="test")
    calibration = [int(feeds["x"]) for feeds in samples.calibration]
    held_out = [int(feeds["x"]) for feeds in samples.held_out]
    assert samples.shared == (count < 4)
    assert held_out == (list(range(count)) if count < 4 else list(range(3, count, 4)))
    if count >= 4:
        assert sorted(calibration + held_out) == list(range(count))
    else:
        assert calibration == held_out


def test_a_slice_of_the_feeds_is_as_lazy_as_they_are(archive: Path) -> None:
    np.savez(archive, ids=whole(8, 3))
    feeds = load_samples(str(archive), [IDS]).feeds
    assert [int(feed["ids"][0, 0]) for feed in feeds[2:4]] == [6, 9]
    assert int(feeds[-1]["ids"][0, 0]) == 21
    with pytest.raises(IndexError):
        feeds[8]


def test_a_folder_gives_one_sample_a_file_in_the_order_of_names(tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    folder.mkdir()
    for index in (2, 0, 1):
        np.savez(folder / f"{index}.npz", ids=np.full((1, index + 1), index), labels=np.int64(index))
    (folder / "notes.txt").write_text("no sample")
    (folder / "._0.npz").write_text("left behind by another system")
    samples = load_samples(str(folder), [IDS])
    assert [feeds["ids"].tolist() for feeds in samples.feeds] == [[[0]], [[1, 1]], [[2, 2, 2]]]
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 1, 2]


def write_module(name: str, text: str) -> None:
    Path(f"{name}.py").write_text(textwrap.dedent(text))


def test_a_function_of_the_users_own_yields_feeds() -> None:
    write_module(
        "own_feeds",
        """
        import numpy
        def feeds():
            ids = numpy.zeros((1, 3), numpy.int64)
            for index in range(5):
                ids[:] = index
                yield {"ids": ids, "labels": index}
        """,
    )
    path = list(sys.path)
    samples = load_samples("own_feeds:feeds", [IDS])
    assert [feeds["ids"].tolist() for feeds in samples.feeds] == [[[index] * 3] for index in range(5)]
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 1, 2, 3, 4]
    assert samples.source == "own_feeds:feeds"
    assert sys.path == path


def test_a_function_that_never_ends_is_asked_for_a_bounded_number_of_samples() -> None:
    write_module(
        "endless_feeds",
        """
        import numpy
        def feeds():
            while True:
                yield {"ids": numpy.zeros((1, 1), numpy.int64)}
        """,
    )
    assert len(load_samples("endless_feeds:feeds", [IDS]).feeds) == MAX_SAMPLES == 1024


@pytest.mark.parametrize(
    ("port", "given", "kept"),
    [
        (IDS, np.array([[1, 2]], np.int32), np.array([[1, 2]], np.int64)),
        (IDS, np.array([[True, False]]), np.array([[1, 0]], np.int64)),
        (Port("ids", np.dtype(np.bool_), ("b", "s")), np.array([[1, 0]]), np.array([[True, False]])),
        (SOUND, np.array([[0.5, 0.25]], np.float64), np.array([[0.5, 0.25]], np.float32)),
        (SOUND, np.array([[0.5, 0.25]], ">f4"), np.array([[0.5, 0.25]], np.float32)),
        (TEXT, np.array(["a", "bc"]), np.array(["a", "bc"], object)),
    ],
)
def test_a_cast_that_keeps_every_value_is_made(
    archive: Path, port: Port, given: np.ndarray[Any, Any], kept: np.ndarray[Any, Any]
) -> None:
    arrays: dict[str, Any] = {port.name: given}
    np.savez(archive, **arrays)
    read = load_samples(str(archive), [port]).feeds[0][port.name]
    assert read.dtype == port.dtype
    assert read.tolist() == kept[:1].tolist()


def test_an_overridable_initializer_need_not_be_given(archive: Path, tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, ["batch", 2]), value("w", TensorProto.FLOAT, [2])],
        [value("y", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor("w", TensorProto.FLOAT, [2], [1, 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    np.savez(archive, x=floats(2, 2))
    session = open_session(tmp_path / "model.onnx")
    samples = load_samples(str(archive), session.inputs)
    assert session.run(samples.feeds[1])["y"].tolist() == [[3, 5]]


WRONG: list[tuple[list[Port], dict[str, Any], str]] = [
    ([IDS, MASK], {"ids": whole(2, 3)}, "D: input 'mask' is missing. The model's inputs: ids, mask."),
    ([IDS], {"id": whole(2, 3), "ids": whole(2, 3)}, "D: 'id' is no input of the model. Its inputs: ids."),
    ([IDS], {"ids": floats(2, 3)}, "D: input 'ids' must be int64, got float32. Convert it with .astype."),
    (
        [IDS],
        {"ids": np.array([[2**63]], np.uint64)},
        "D: input 'ids' must be int64, got uint64. Convert it with .astype.",
    ),
    ([SOUND], {"sound": np.array([[0.1]])}, "D: input 'sound' must be float32, got float64. Convert it with .astype."),
    ([SOUND], {"sound": np.array([[1e99]])}, "D: input 'sound' must be float32, got float64. Convert it with .astype."),
    ([SOUND], {"sound": whole(1, 3)}, "D: input 'sound' must be float32, got int64. Convert it with .astype."),
    (
        [IDS],
        {"ids": whole(3)},
        (
            "D: must be samples of ids int64 [batch, sequence], stacked on a new first axis or along axis 0, got [3]. "
            "Reshape it."
        ),
    ),
    (
        [IMAGE],
        {"image": floats(3, 3, 4, 4)},
        (
            "D: must be samples of image float32 [2, 3, height, width], stacked on a new first axis or along axis 0, "
            "got [3, 3, 4, 4]. Reshape it."
        ),
    ),
    (
        [IMAGE],
        {"image": floats(2, 4, 4, 3)},
        (
            "D: must be samples of image float32 [2, 3, height, width], stacked on a new first axis or along axis 0, "
            "got [2, 4, 4, 3]. Reshape it."
        ),
    ),
    (
        [IDS, MASK],
        {"ids": whole(8, 3), "mask": whole(6, 3)},
        "D: all inputs must hold the same number of samples, got ids 8, mask 6. Make them equal.",
    ),
    ([IDS], {"ids": whole(0, 3)}, "D: at least one sample is needed, got none. Give a few dozen."),
    (
        [SOUND],
        {"sound": np.array([[0, 1], [2, np.nan]], np.float32)},
        "D: input 'sound' must be numbers, got NaN in sample 1. Leave that sample out.",
    ),
    (
        [SOUND],
        {"sound": np.array([[np.nan]])},
        "D: input 'sound' must be numbers, got NaN. Leave that sample out.",
    ),
    (
        [IDS],
        {"ids": whole(3, 2), "labels": whole(2)},
        "D: labels must be one for each of the 3 samples, got 2. Make them equal.",
    ),
    (
        [IDS],
        {"ids": whole(3, 2), "labels": np.int64(1)},
        "D: labels must be one for each of the 3 samples, got a single one. Make them equal.",
    ),
    (
        [Port("x", None, (1,))],
        {"x": floats(1)},
        "D: input 'x' is of a type that arrays do not have. Export it as float32.",
    ),
]


@pytest.mark.parametrize(("ports", "arrays", "line"), WRONG)
def test_an_archive_that_does_not_fit_is_told_in_one_line(
    archive: Path, ports: list[Port], arrays: dict[str, Any], line: str
) -> None:
    np.savez(archive, **arrays)
    with pytest.raises(DataError) as caught:
        load_samples(str(archive), ports)
    assert str(caught.value) == line.replace("D", str(archive), 1)


def member(archive: Path, *names: str) -> None:
    with zipfile.ZipFile(archive, "w") as file:
        for name in names:
            file.writestr(name, b"")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_that_is_none_is_told_in_one_line(archive: Path) -> None:
    def line() -> str:
        with pytest.raises(DataError) as caught:
            load_samples(str(archive), [IDS])
        return str(caught.value).replace(str(archive), "D")

    archive.write_text("not an archive")
    assert line() == "D: not an .npz archive, or damaged. Write it with numpy.savez."
    archive.write_bytes(b"")
    assert line() == "D: not an .npz archive, or damaged. Write it with numpy.savez."
    with archive.open("wb") as file:
        np.save(file, whole(1, 2))
    assert line() == "D: not an .npz archive, or damaged. Write it with numpy.savez."
    member(archive, "../../ids")
    assert line() == "D: holds '../../ids', which is no array. Write it with numpy.savez."
    member(archive, "ids.npy", "ids.npy")
    assert line() == "D: holds two arrays named 'ids'. Write it with numpy.savez."
    np.savez(archive, ids=np.array([{"a": 1}], object))
    assert line() == "D: 'ids' holds pickled objects, which may run code. Save plain arrays."
    np.savez(archive, ids=whole(2, 3))
    archive.write_bytes(archive.read_bytes()[:-40])
    assert line() == "D: not an .npz archive, or damaged. Write it with numpy.savez."


def test_an_archive_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(archive, ids=np.zeros((1000, 1000), np.int64))
    assert archive.stat().st_size < 20_000
    monkeypatch.setattr(npz, "LIMIT_BYTES", 1_000_000)
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    # 1000·1000·8 bytes and numpy's header of 128
    with pytest.raises(DataError, match="unpacks to 8000128 bytes, at most 1000000 are read"):
        load_samples(str(archive), [IDS])


def test_an_array_that_claims_more_than_the_archive_holds_is_refused_before_it_is_read(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with archive.with_suffix(".npy").open("wb") as stored:
        np.save(stored, whole(1, 2))
    content = archive.with_suffix(".npy").read_bytes()
    assert content.count(b"(1, 2), }     ") == 1
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("ids.npy", content.replace(b"(1, 2), }     ", b"(9999999999,)}"))
    monkeypatch.setattr(np.lib.format, "read_array", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(DataError, match="archive, or damaged"):
        load_samples(str(archive), [IDS])


def test_a_changed_byte_is_found_by_its_checksum(archive: Path) -> None:
    np.savez(archive, ids=np.full((1, 2), 0x1234567812345678))
    content = archive.read_bytes()
    archive.write_bytes(content.replace(bytes.fromhex("78563412"), bytes.fromhex("78563413"), 1))
    with pytest.raises(DataError, match="archive, or damaged"):
        load_samples(str(archive), [IDS])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8), cut=st.booleans())
def test_damaged_bytes_give_samples_or_one_line(tmp_path: Path, flips: list[tuple[int, int]], cut: bool) -> None:
    archive = tmp_path / "damaged.npz"
    np.savez_compressed(archive, ids=whole(4, 9), labels=np.arange(4))
    content = bytearray(archive.read_bytes())
    for at, value in flips:
        content[at % len(content)] = value
    archive.write_bytes(content[: flips[0][0] % len(content)] if cut else content)
    line = ""
    try:
        read = len(load_samples(str(archive), [IDS]).feeds)
    except DataError as error:
        read, line = 4, str(error)
    assert (read, line.count("\n")) == (4, 0)


def test_a_folder_that_does_not_fit_is_told_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    folder.mkdir()

    def line() -> str:
        with pytest.raises(DataError) as caught:
            load_samples(str(folder), [IDS])
        return str(caught.value).replace(str(folder), "D")

    assert line() == "D: at least one .npz file is needed, found none. Save each sample as one file."
    np.savez(folder / "0.npz", ids=whole(1, 2), labels=np.int64(0))
    np.savez(folder / "1.npz", ids=whole(1, 2))
    assert line() == "D: labels must be of one shape and in every sample or in none. Make them alike."
    np.savez(folder / "1.npz", ids=whole(3))
    assert line() == "D/1.npz: one sample must be ids int64 [batch, sequence], got [3]. Reshape it."


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        (
            "nowhere.npz",
            (
                "nowhere.npz: no such file or folder. Give an .npz file, a folder of .npz files, or module:function "
                "for samples."
            ),
        ),
        (
            "no_such_module:feeds",
            (
                "no_such_module:feeds: it raised ModuleNotFoundError: No module named 'no_such_module'. "
                "Mend it or give an .npz file."
            ),
        ),
        ("own_wrong:fed", "own_wrong:fed: own_wrong has no function 'fed'. It has: breaks, few, flat, listed, nan."),
        ("own_wrong:breaks", "own_wrong:breaks: it raised KeyError: 'a b'. Mend it or give an .npz file."),
        ("own_wrong:few", "own_wrong:few: at least one sample is needed, it yielded none. Yield a few dozen."),
        (
            "own_wrong:listed",
            "own_wrong:listed, sample 0: must be a mapping of input names to arrays, got list. Yield a dict.",
        ),
        (
            "own_wrong:flat",
            "own_wrong:flat, sample 1: one sample must be sound float32 [?, ?], got [4]. Reshape it.",
        ),
        (
            "own_wrong:nan",
            "own_wrong:nan, sample 0: input 'sound' must be numbers, got NaN. Leave that sample out.",
        ),
    ],
)
def test_a_function_that_does_not_fit_is_told_in_one_line(spec: str, line: str) -> None:
    write_module(
        "own_wrong",
        """
        import numpy
        def breaks():
            raise KeyError("a b")
        def few():
            return iter(())
        def listed():
            yield [1]
        def flat():
            yield {"sound": numpy.zeros((1, 4), numpy.float32)}
            yield {"sound": numpy.zeros(4, numpy.float32)}
        def nan():
            yield {"sound": numpy.full((1, 4), numpy.nan, numpy.float32)}
        """,
    )
    sys.modules.pop("own_wrong", None)
    with pytest.raises(DataError) as caught:
        load_samples(spec, [SOUND])
    assert str(caught.value) == line


def test_a_function_that_yields_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    write_module(
        "large_feeds",
        """
        import numpy
        def feeds():
            while True:
                yield {"sound": numpy.zeros((1, 100), numpy.float32)}
        """,
    )
    monkeypatch.setattr("onnxprune.data.LIMIT_BYTES", 1000)
    # 400 bytes a sample: the third is too much
    with pytest.raises(DataError, match="large_feeds:feeds, sample 2: more than 1000 bytes in all"):
        load_samples("large_feeds:feeds", [SOUND])
