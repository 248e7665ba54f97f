"""Whatever is wrong with what the user gave: one line, exit code 2, no file left, the input untouched."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from onnxprune import pipeline
from onnxprune.cli import main
from tests import graphs


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "TIMING_S", 0.02)
    monkeypatch.chdir(tmp_path)
    graphs.saved(graphs.feed_forward(), tmp_path)


def refused(*arguments: str) -> str:
    """The one line that a command ends in, with its prefix taken off; nothing was written or changed."""
    before = contents()
    result = CliRunner().invoke(main, arguments)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert result.stdout == ""
    assert contents() == before
    (line,) = result.stderr.splitlines()
    assert line.startswith("onnxprune: ")
    return line.removeprefix("onnxprune: ")


def contents() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


# The model


def write_text() -> None:
    Path("m.onnx").write_text("# A model\n\nIt is on the other disk.\n")


def cut_off() -> None:
    Path("m.onnx").write_bytes(Path("model.onnx").read_bytes()[:20_000])


def lose_the_data() -> None:
    onnx.save(graphs.feed_forward(), "m.onnx", save_as_external_data=True, location="m.data", size_threshold=1024)
    Path("m.data").unlink()


def cut_the_data_off() -> None:
    lose_the_data()
    Path("m.data").write_bytes(bytes(1000))


def misspell() -> None:
    proto = graphs.feed_forward()
    proto.graph.node[2].op_type = "Rellu"
    onnx.save(proto, "m.onnx")


def disagree() -> None:
    """A weight of the wrong width: the runtime refuses the graph."""
    proto = graphs.feed_forward()
    proto.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(graphs.weights(95, 64), "down"))
    onnx.save(proto, "m.onnx")


def poison(name: str = "up") -> None:
    proto = graphs.feed_forward()
    for at, tensor in enumerate(proto.graph.initializer):
        if tensor.name == name:
            array = onnx.numpy_helper.to_array(tensor).copy()
            array.reshape(-1)[7] = np.nan
            proto.graph.initializer[at].CopyFrom(onnx.numpy_helper.from_array(array, name))
    onnx.save(proto, "m.onnx")


def cut_a_tensor(name: str = "up") -> None:
    proto = graphs.feed_forward()
    for tensor in proto.graph.initializer:
        if tensor.name == name:
            tensor.raw_data = tensor.raw_data[:-4]
    onnx.save(proto, "m.onnx")


def nothing_inside() -> None:
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [])), "m.onnx")


BAD_MODELS: dict[str, tuple[Callable[[], object], str]] = {
    "missing": (lambda: None, "m.onnx: no such file. Name an existing .onnx file."),
    "empty": (lambda: Path("m.onnx").touch(), "m.onnx: the file is empty. Export the model again."),
    "a folder": (lambda: Path("m.onnx").mkdir(), "m.onnx: no such file. Name an existing .onnx file."),
    "text": (
        write_text,
        "m.onnx: not an ONNX model, or cut off ({at}). Export or copy it again.",
    ),
    "a tensor cut short": (
        cut_a_tensor,
        "up: 24576 bytes are needed, 24572 are stored. Export the model again.",
    ),
    "a small tensor cut short": (
        lambda: cut_a_tensor("up_bias"),
        "m.onnx: not a valid ONNX graph: {at}. Check it with onnx.checker.",
    ),
    "cut off": (
        cut_off,
        (
            "m.onnx: not an ONNX model, or cut off (a field at byte {at} runs past the end of its message). "
            "Export or copy it again."
        ),
    ),
    "no outputs": (
        nothing_inside,
        "m.onnx: not an ONNX model: it has no graph outputs or no opset. Export it again.",
    ),
    "data gone": (
        lose_the_data,
        "{folder}/m.data: no such file, but the model keeps its weights there. Put it beside the model.",
    ),
    "data cut off": (
        cut_the_data_off,
        "up: 24576 bytes at offset 0 are needed, the data ends at 1000. Copy the model and its data file again.",
    ),
    "an unknown operator": (misspell, "m.onnx: onnxruntime refuses the model: "),
    "sizes that disagree": (disagree, "m.onnx: onnxruntime refuses the model: "),
    "NaN": (poison, "m.onnx: weight 'up' contains NaN. Export the model from a sound checkpoint."),
    "NaN in a bias": (
        lambda: poison("down_bias"),
        "m.onnx: weight 'down_bias' contains NaN. Export the model from a sound checkpoint.",
    ),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_a_model_at_fault_is_one_line(tmp_path: Path, name: str) -> None:
    make, message = BAD_MODELS[name]
    make()
    line = refused("optimize", "m.onnx", "-o", "small.onnx")
    expected, _, _ = message.partition("{at}")
    assert line.startswith(expected.replace("{folder}", str(tmp_path)))
    if "refuses" not in message and "{at}" not in message:
        assert line == message.replace("{folder}", str(tmp_path))


@pytest.mark.parametrize("command", [["inspect"], ["time"], ["validate", "model.onnx"], ["validate"]])
@pytest.mark.parametrize("name", ["missing", "text", "cut off", "data gone", "an unknown operator"])
def test_every_command_says_so(command: list[str], name: str) -> None:
    BAD_MODELS[name][0]()
    second = ["model.onnx"] if command == ["validate"] else []
    assert refused(*command, "m.onnx", *second)


def test_a_file_that_may_not_be_read_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def refuse(self: Path, *arguments: Any, **options: Any) -> Any:
        if self.name == "model.onnx":
            raise PermissionError(13, "Permission denied")
        return opened(self, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        result = CliRunner().invoke(main, ["optimize", "model.onnx", "-o", "small.onnx"])
    assert result.exit_code == 2
    assert result.stderr == (
        "onnxprune: model.onnx: cannot be read: Permission denied. Give a file that you may read.\n"
    )


# What was typed


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["optimize"], "optimize: Missing argument 'MODEL'. See onnxprune optimize --help."),
        (
            ["optimize", "model.onnx", "--seed", "abc"],
            "optimize: Invalid value for '--seed': 'abc' is not a valid integer. See onnxprune optimize --help.",
        ),
        (["time"], "time: Missing argument 'MODELS...'. See onnxprune time --help."),
        (["nope"], "No such command 'nope'. See onnxprune --help."),
        (
            ["validate", "model.onnx", "model.onnx", "--fidelity", "nan"],
            "fidelity must be at most 1 (a perfect copy), got nan. Give a share such as 0.95.",
        ),
        (["time", "model.onnx", "--seconds", "nan"], "seconds must be above 0, got nan."),
        (["time", "model.onnx", "--seconds", "inf"], "seconds must be above 0, got inf."),
        (["time", "model.onnx", "--seconds", "0"], "seconds must be above 0, got 0.0."),
        (["targets", "x"], "targets: Got unexpected extra argument (x). See onnxprune targets --help."),
        (["optimize", "model.onnx", "--seed", "-1"], "seed must be a whole number from 0 on, got -1."),
        (["validate", "model.onnx", "model.onnx", "--seed", "-1"], "seed must be a whole number from 0 on, got -1."),
        (["optimize", "model.onnx", "--speedup", "2", "--budget", "-1"], "budget must be above 0, got -1.0."),
        (["optimize", "model.onnx", "--speedup", "2", "--budget", "nan"], "budget must be above 0, got nan."),
    ],
)
def test_a_command_that_was_typed_wrong_is_one_line(typed: list[str], line: str) -> None:
    assert refused(*typed) == line


@pytest.mark.parametrize(
    "typed",
    [
        ["inspect", "model.onnx"],
        ["optimize", "model.onnx", "-o", "small.onnx"],
        ["validate", "model.onnx", "model.onnx"],
        ["time", "model.onnx"],
        ["sweep", "model.onnx", "--data", "d.npz"],
    ],
    ids=lambda typed: str(typed[0]),
)
def test_a_page_does_not_take_the_place_of_a_model(typed: list[str]) -> None:
    line = refused(*typed, "--html", "./model.onnx")
    assert line == "model.onnx: is a model of this job. Choose another place with --html."


def test_a_page_does_not_take_the_place_of_the_result() -> None:
    line = refused("optimize", "model.onnx", "-o", "small.onnx", "--html", "small.onnx")
    assert line == "small.onnx: is a model of this job. Choose another place with --html."


def test_a_name_that_is_too_long_is_one_line() -> None:
    name = f"{'x' * 300}.onnx"
    assert refused("optimize", "model.onnx", "-o", name) == (
        f"{name}: cannot be written: File name too long. Choose another place with --output."
    )
    told = f"{name}: File name too long. Name another file."
    assert refused("inspect", name) == told
    assert refused("optimize", "model.onnx", "-o", "small.onnx", "--data", name) == told
    assert refused("optimize", "model.onnx", "-o", "small.onnx", "--html", name) == told
    assert refused("check", "model.onnx", "--reference", name) == told


@pytest.mark.parametrize("shape", ["z=1x2", "x=1x2x65", "x=1x2"])
def test_static_sizes_that_do_not_fit_are_told_before_anything_is_written(shape: str) -> None:
    assert refused("optimize", "model.onnx", "-o", "small.onnx", "--fixed-shapes", shape).startswith("--fixed-shapes: ")


def test_an_unknown_option_is_one_line() -> None:
    line = refused("optimize", "model.onnx", "--speed", "2")
    assert line.startswith("optimize: No such option")
    assert line.endswith(" See onnxprune optimize --help.")


# The samples


def sample_file(**arrays: Any) -> None:
    np.savez("data.npz", **arrays)


GOOD = np.zeros((4, 1, 5, 64), np.float32)
BAD_DATA: dict[str, tuple[Callable[[], object], str]] = {
    "missing": (
        lambda: None,
        "data.npz: no such file or folder. Give an .npz file, a folder of .npz files, or module:function for samples.",
    ),
    "another name": (lambda: sample_file(z=GOOD), "data.npz: 'z' is no input of the model. Its inputs: x."),
    "no name": (lambda: sample_file(labels=np.zeros(4)), "data.npz: input 'x' is missing. The model's inputs: x."),
    "another type": (
        lambda: sample_file(x=GOOD.astype(np.int64)),
        "data.npz: input 'x' must be float32, got int64. Convert it with .astype.",
    ),
    "another shape": (
        lambda: sample_file(x=GOOD[..., :63]),
        (
            "data.npz: must be samples of x float32 [batch, sequence, 64], stacked on a new first axis or along axis "
            "0, got [4, 1, 5, 63]. Reshape it."
        ),
    ),
    "another rank": (
        lambda: sample_file(x=GOOD[0, 0]),
        (
            "data.npz: must be samples of x float32 [batch, sequence, 64], stacked on a new first axis or along axis "
            "0, got [5, 64]. Reshape it."
        ),
    ),
    "NaN": (
        lambda: sample_file(x=np.where(np.arange(4)[:, None, None, None] == 2, np.nan, GOOD).astype(np.float32)),
        "data.npz: input 'x' must be numbers, got NaN in sample 2. Leave that sample out.",
    ),
    "no archive": (
        lambda: Path("data.npz").write_text("x"),
        "data.npz: not an .npz archive, or damaged. Write it with numpy.savez.",
    ),
    "none": (
        lambda: sample_file(x=GOOD[:0]),
        "data.npz: at least one sample is needed, got none. Give a few dozen.",
    ),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_samples_at_fault_are_one_line(name: str) -> None:
    make, message = BAD_DATA[name]
    make()
    assert refused("optimize", "model.onnx", "-o", "small.onnx", "--data", "data.npz") == message


# The output


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("gone/small.onnx", "gone: no such folder. Make it or choose another place with --output."),
        ("folder", "folder: is a folder. Name a file with --output."),
        ("model.onnx", "model.onnx: is the input itself. Choose another place with --output."),
        ("folder/../model.onnx", "folder/../model.onnx: is the input itself. Choose another place with --output."),
        ("link.onnx", "link.onnx: is the input itself. Choose another place with --output."),
        ("hard.onnx", "hard.onnx: is the input itself. Choose another place with --output."),
        ("model.onnx/small.onnx", "model.onnx: no such folder. Make it or choose another place with --output."),
    ],
)
@pytest.mark.parametrize("command", ["optimize", "apply"])
def test_an_output_that_cannot_be_is_one_line(output: str, message: str, command: str) -> None:
    Path("folder").mkdir()
    Path("link.onnx").symlink_to("model.onnx")
    os.link("model.onnx", "hard.onnx")
    Path("p.json").touch()
    plan = ["p.json"] if command == "apply" else []
    assert refused(command, "model.onnx", *plan, "-o", output) == message


def test_a_folder_that_may_not_be_written_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    # An administrator may write anywhere, so that the refusal is made here where the mode would not make it.
    make = tempfile.mkstemp

    def refuse(**options: Any) -> Any:
        if options["suffix"] == ".part" and options["prefix"].startswith(".small"):
            raise PermissionError(13, "Permission denied")
        return make(**options)

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    # Where the system has them, files without a name come first.
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    assert refused("optimize", "model.onnx", "-o", "small.onnx") == (
        "small.plan.json: cannot be written: Permission denied. Choose another place with --output."
    )


def full(folder: Path, kib: int) -> Iterator[Path]:
    """A file system of its own with little room, where we may make one."""
    disk = folder / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        yield folder
        return
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("room", [4, 16, 24])
def test_a_full_disk_is_one_line_and_leaves_no_file(tmp_path: Path, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # The result takes 15 kB, its plan's tensors 13 kB.
    for disk in full(tmp_path, room):
        if disk == tmp_path:
            _limit_writes(monkeypatch, room * 1024)
        result = CliRunner().invoke(main, ["optimize", "model.onnx", "-o", str(disk / "small.onnx")])
        assert result.exit_code == 2, result.output
        assert result.stderr.startswith(f"onnxprune: {disk}/small.")
        # Whatever is known to be too large is not begun; the rest fails while it is written.
        assert result.stderr.endswith(
            (
                ": cannot be written: No space left on device. Choose another place with --output.\n",
                " kB free. Make room, or choose another place with --output.\n",
            )
        )
        assert not [path for path in disk.iterdir() if "small" in path.name]


def _limit_writes(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """No file system could be made: writes beside the model fail once so many bytes have been taken."""
    from tests.test_model import _FullDisk

    opened, left = os.fdopen, [room]

    class Shared(_FullDisk):
        def write(self, data: Any) -> int:
            left[0] -= memoryview(data).nbytes
            self._room = left[0]
            return super().write(data)

    def limited(handle: int, mode: str) -> Any:
        inside = Path(f"/proc/self/fd/{handle}").readlink().name.startswith(".small.")
        return Shared(opened(handle, mode), room) if inside else opened(handle, mode)

    monkeypatch.setattr(os, "fdopen", limited)
