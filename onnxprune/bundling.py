"""A folder to carry to a phone or a board: models, one input and scripts that time them there, in alternation."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxprune.comparison import inputs_for, timed_feeds
from onnxprune.errors import DataError, OutputError
from onnxprune.interface import interface_of
from onnxprune.model import data_files, load
from onnxprune.packing import unpacked
from onnxprune.runtime import Feeds, open_session
from onnxprune.synthetic import parse_shapes
from onnxprune.targets.process import save_feeds
from onnxprune.targets.worker import SCHEMA as WORKER_SCHEMA

SCHEMA = 1
MANIFEST = "manifest.json"
# Each round runs every model once more, so that a device that heats up slows all of them alike.
ROUNDS, RUNS = 11, 10
# As the scripts name them: onnxruntime's perf test knows all, its Python package some.
PROVIDERS = {
    "cpu": [],
    "xnnpack": [["XnnpackExecutionProvider", {"intra_op_num_threads": "1"}]],
    "nnapi": [["NnapiExecutionProvider", {}]],
    "coreml": [["CoreMLExecutionProvider", {}]],
    "acl": [["ACLExecutionProvider", {}]],
    "armnn": [["ArmNNExecutionProvider", {}]],
}
_SCRIPTS = ("run.sh", "adb.sh", "ssh.sh", "README.txt")


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A folder that was written.

    Attributes:
        models: the names of the models in it, in order.
    """

    folder: Path
    models: tuple[str, ...]
    size_bytes: int

    def to_json(self) -> dict[str, Any]:
        """The keys are stable."""
        return {"bundle": str(self.folder), "models": list(self.models), "size_bytes": self.size_bytes}


def bundle(
    models: Sequence[Path | str],
    folder: Path | str,
    *,
    data: str | None = None,
    shape: Sequence[str] = (),
    seed: int = 0,
) -> Bundle:
    """Write a folder with models, one input in onnxruntime's test format and as .npz, and scripts.

    Args:
        models: the first is what the others are compared with.
        folder: where; it must not exist yet, or be empty.
        data: sample inputs, the first of which is timed; a synthetic one without it.
        shape: `NAME=1x128`.
        seed: of synthetic inputs.

    Raises:
        OnnxPruneError: a model, the data or the folder is at fault; nothing has been written.
    """
    paths, destination = [Path(model) for model in models], Path(folder)
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise OutputError(f"{destination}: exists and is not an empty folder. Name a new one.")
    first, session = unpacked(load(paths[0]))[0], open_session(paths[0])
    sizes = parse_shapes(shape)
    feeds = timed_feeds(first, session, inputs_for(first, session, data, sizes, seed), sizes)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{destination.name}.") as name:
            part = Path(name) / "bundle"
            part.mkdir(mode=0o755)
            _write(part, paths, feeds)
            if destination.exists():
                destination.rmdir()
            part.rename(destination)
    except OSError as error:
        raise OutputError(
            f"{destination}: cannot be written: {error.strerror or error}. Name another place."
        ) from error
    size = sum(file.stat().st_size for file in destination.rglob("*") if file.is_file())
    return Bundle(folder=destination, models=tuple(path.name for path in paths), size_bytes=size)


def _write(part: Path, paths: Sequence[Path], feeds: Feeds) -> None:
    entries = []
    fitting: list[Feeds] = []
    for at, path in enumerate(paths):
        own = part / "models" / str(at)
        own.mkdir(parents=True)
        shutil.copyfile(path, own / "model.onnx")
        for file in data_files(path):
            place = own / file.relative_to(path.parent)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
        session = open_session(path)
        fitting.append(interface_of(dict(load(path).fields.metadata)).fitted(feeds))
        _write_test_data(own / "test_data_set_0", [port.name for port in session.inputs], fitting[-1])
        entries.append({"name": path.name, "sha256": _sha256(own / "model.onnx")})
    manifest = {
        "schema": SCHEMA,
        "onnxprune": version("onnxprune"),
        "rounds": ROUNDS,
        "runs": RUNS,
        "shape": {name: list(value.shape) for name, value in feeds.items()},
        "models": entries,
    }
    (part / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    _write_jobs(part, fitting)
    scripts = files("onnxprune.targets").joinpath("device")
    for name in _SCRIPTS:
        text = scripts.joinpath(name).read_text(encoding="utf-8")
        text = text.replace("@ROUNDS@", str(ROUNDS)).replace("@RUNS@", str(RUNS)).replace("@MODELS@", str(len(paths)))
        (part / name).write_text(text, encoding="utf-8")
        (part / name).chmod(0o644 if name.endswith(".txt") else 0o755)
    shutil.copyfile(str(files("onnxprune.targets").joinpath("worker.py")), part / "worker.py")


def _write_test_data(folder: Path, names: Sequence[str], feeds: Feeds) -> None:
    """One file an input, numbered as the model numbers them, which is how onnxruntime's perf test finds them."""
    folder.mkdir()
    for at, name in enumerate(names):
        if name not in feeds:
            raise DataError(f"No input {name!r} in the sample. Give --data that has every input.")
        tensor = onnx.numpy_helper.from_array(np.ascontiguousarray(feeds[name]), name)
        (folder / f"input_{at}.pb").write_bytes(tensor.SerializeToString())


def _write_jobs(part: Path, fitting: Sequence[Feeds]) -> None:
    """For boards with Python: the same job that any other target's worker gets."""
    for provider, settings in PROVIDERS.items():
        own = part / "jobs" / provider
        own.mkdir(parents=True)
        job = {
            "schema": WORKER_SCHEMA,
            "task": "time",
            "threads": 1,
            "providers": [*settings, ["CPUExecutionProvider", {}]],
            "config": {"session.intra_op.allow_spinning": "0"},
            "models": [f"models/{at}/model.onnx" for at in range(len(fitting))],
            "budget_s": 4.0 * len(fitting),
            "min_runs": 11,
            "max_runs": 500,
        }
        (own / "job.json").write_text(json.dumps(job, indent=1), encoding="utf-8")
        for at, feeds in enumerate(fitting):
            save_feeds(own / f"feeds-{at}.npz", feeds)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
