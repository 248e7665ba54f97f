"""The one door to onnxruntime sessions."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_graphsurgeon as gs
import onnxruntime as ort

from onnxprune.errors import ModelError
from onnxprune.graph import constants, storage
from onnxprune.interface import interface_of
from onnxprune.model import Model, load, save, size_on_disk
from onnxprune.pieces import cut_into_pieces, run_in_pieces

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]
Level = Literal["none", "default"]

# Errors reach the user as our own one line; onnxruntime's log would print them a second time.
_FATAL = 4
_LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "default": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_DTYPES = {
    "tensor(bool)": np.bool_,
    "tensor(double)": np.float64,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(int8)": np.int8,
    "tensor(string)": np.object_,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(uint8)": np.uint8,
}


# What sessions may take of the memory; None: as much as they want.
_memory_bytes: ContextVar[int | None] = ContextVar("memory_bytes", default=None)
# A session holds its weights once as they are stored and once as its kernels want them.
_COPIES = 2


@contextmanager
def memory_limited(limit_bytes: int | None) -> Iterator[None]:
    """Sessions opened in this block whose model would take more than `limit_bytes` run it piece by piece."""
    token = _memory_bytes.set(limit_bytes)
    try:
        yield
    finally:
        _memory_bytes.reset(token)


@dataclass(frozen=True)
class Port:
    """An input or output of a model.

    Attributes:
        dtype: numpy's type; None for types without one (bfloat16, sequences, maps).
        shape: sizes; a name or None where an axis is dynamic.
    """

    name: str
    dtype: np.dtype[Any] | None
    shape: tuple[int | str | None, ...]

    def __str__(self) -> str:
        """As the user would write it: `input_ids int64 [batch, sequence]`."""
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name} {self.dtype or 'of an unsupported type'} [{sizes}]"


@cache
def operators() -> Mapping[tuple[str, str], tuple[int, ...]]:
    """Every operator that the installed onnxruntime defines: (domain, name) -> the opsets that changed it."""
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

    found: dict[tuple[str, str], list[int]] = {}
    for schema in get_all_operator_schema():
        found.setdefault((schema.domain, schema.name), []).append(schema.since_version)
    return {key: tuple(sorted(versions)) for key, versions in found.items()}


class Session:
    """A loaded model that runs on one thread unless told otherwise.

    Attributes:
        interface: what was cut out of its inputs and outputs; feeds from before are cut alike.
    """

    def __init__(self, session: ort.InferenceSession, name: str) -> None:
        self._session = session
        self.name = name
        self.interface = interface_of(session.get_modelmeta().custom_metadata_map)
        self.inputs = tuple(_port(value) for value in session.get_inputs())
        self.outputs = tuple(_port(value) for value in session.get_outputs())

    def run(self, feeds: Feeds) -> dict[str, Any]:
        """Outputs by name: arrays, or lists and dicts where an output is a sequence or map.

        Raises:
            ModelError: the runtime refuses the feeds or fails on them.
        """
        names = [port.name for port in self.outputs]
        try:
            values = self._session.run(names, self.interface.fitted(feeds))
        except Exception as error:  # onnxruntime's errors share no base class
            raise ModelError(f"{self.name}: onnxruntime failed while running it: {first_line(error)}") from error
        return dict(zip(names, values, strict=True))

    def end_profiling(self) -> str:
        """The file that the runtime's profile was written to."""
        return str(self._session.end_profiling())


class PieceSession(Session):
    """A model too large for the memory that it may take: its pieces are opened, run and closed in turn, at each run."""

    def __init__(self, model: Model, limit_bytes: int, *, level: Level, threads: int, name: str) -> None:
        self.name = name
        self.interface = interface_of(model.metadata)
        self.inputs = tuple(_declared(tensor) for tensor in model.graph.inputs)
        self.outputs = tuple(_declared(tensor) for tensor in model.graph.outputs)
        self._model = model.copy()
        self._pieces = cut_into_pieces(self._model.graph, limit_bytes // _COPIES)
        self._level: Level = level
        self._threads = threads

    def run(self, feeds: Feeds) -> dict[str, Any]:
        """Outputs by name; see `Session.run`."""

        def run(piece: Model, values: Mapping[str, Any]) -> dict[str, Any]:
            with memory_limited(None):
                return open_session(piece, level=self._level, threads=self._threads).run(values)

        return run_in_pieces(self._model, self._pieces, self.interface.fitted(feeds), run)


def open_session(source: Path | str | Model, *, level: Level = "default", threads: int = 1) -> Session:
    """A session on the CPU provider, with optimizations at their default (all) or off.

    Raises:
        ModelError: onnxruntime refuses the model.
    """
    limit = _memory_bytes.get()
    if limit is not None and _weight_bytes(source) * _COPIES > limit:
        name = "model.onnx" if isinstance(source, Model) else Path(source).name
        model = source if isinstance(source, Model) else load(source)
        return PieceSession(model, limit, level=level, threads=threads, name=name)
    if isinstance(source, Model):
        with written(source) as path:
            return open_session(path, level=level, threads=threads)
    return _session(source, _options(level, threads))


def _session(source: Path | str, options: ort.SessionOptions) -> Session:
    name = Path(source).name
    try:
        session = ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        # Names of a damaged file need not be text.
        return Session(session, name)
    except Exception as error:  # onnxruntime's errors share no base class
        raise ModelError(f"{name}: onnxruntime refuses the model: {first_line(error)}") from error


def save_ort(source: Path, destination: Path) -> None:
    """Write a model in the ORT format, its optimizations carried out but for those that only one kind of CPU has.

    Raises:
        ModelError: onnxruntime cannot convert it.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = _LEVELS["default"]
    options.log_severity_level = _FATAL
    options.optimized_model_filepath = str(destination)
    options.add_session_config_entry("session.save_model_format", "ORT")
    try:
        ort.InferenceSession(
            str(source), options, providers=["CPUExecutionProvider"], disabled_optimizers=["NchwcTransformer"]
        )
    except Exception as error:  # onnxruntime's errors share no base class
        raise ModelError(f"{destination.name}: onnxruntime cannot write the ORT format: {first_line(error)}") from error


def _options(level: Level, threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.graph_optimization_level = _LEVELS[level]
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL
    return options


def save_optimized(source: Path, destination: Path) -> None:
    """Write the graph that a session runs, its weights in a second file beside it.

    Raises:
        ModelError: onnxruntime refuses the model.
    """
    options = _options("default", 1)
    options.optimized_model_filepath = str(destination)
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_file_name", f"{destination.name}.data"
    )
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    try:
        ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class
        raise ModelError(f"{source.name}: onnxruntime refuses the model: {first_line(error)}") from error


def operator_times(path: Path | str, feeds: Feeds, *, runs: int = 10) -> dict[str, float]:
    """Milliseconds of a run by operator, medians, from the runtime's own profile of one thread; profiling adds to each.

    Raises:
        ModelError: onnxruntime refuses the model, or fails on the feeds.
    """
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
        options = _options("default", 1)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = _session(path, options)
        for _ in range(runs + 1):
            session.run(feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    spent: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            spent.setdefault(event["args"]["op_name"], []).append(event["dur"] / 1e3)
    # Every run holds the same number of nodes; the first warms up.
    return {op: float(np.median(np.reshape(times, (runs + 1, -1)).sum(axis=1)[1:])) for op, times in spent.items()}


class written:  # noqa: N801 - reads as a phrase: `with written(model) as path`
    """A model as a temporary file, for those who need a path."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def __enter__(self) -> Path:
        self._folder = tempfile.TemporaryDirectory(prefix="onnxprune-")
        path = Path(self._folder.name) / "model.onnx"
        try:
            save(self._model, path)
        except BaseException:
            self._folder.cleanup()
            raise
        return path

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


def observe(model: Model, feeds: Feeds, names: Sequence[str] | None = None, level: Level = "none") -> dict[str, Array]:
    """Values of intermediate tensors (all that the top graph computes, or those of `names`) for one feed."""
    session = open_session(with_outputs(model, names), level=level)
    return session.run(feeds)


def with_outputs(model: Model, names: Sequence[str] | None = None) -> Model:
    """A model that gives out intermediate tensors too, after its own outputs."""
    copy = model.copy()
    known = {t.name for t in copy.graph.outputs}
    wanted = None if names is None else set(names)
    for node in copy.graph.nodes:
        for tensor in node.outputs:
            if tensor.name and tensor.name not in known and (wanted is None or tensor.name in wanted):
                known.add(tensor.name)
                # The runtime infers what is left open; a stale annotation would be refused.
                tensor.dtype = tensor.shape = None
                copy.graph.outputs.append(tensor)
    return copy


def observe_shapes(model: Model, probes: Sequence[Feeds]) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Each tensor's shape in each probe run, constants included; tensors that are no arrays are left out."""
    session = open_session(with_outputs(model), level="none")
    runs: list[dict[str, tuple[int, ...]]] = []
    for feeds in probes:
        values = session.run(feeds) | session.interface.fitted(feeds)
        runs.append({name: value.shape for name, value in values.items() if isinstance(value, np.ndarray)})
    shapes = {name: tuple(run[name] for run in runs) for name in runs[0] if all(name in run for run in runs)}
    for tensor in constants(model.graph):
        shapes[tensor.name] = (tuple(tensor.shape),) * len(probes)
    return shapes


def _weight_bytes(source: Path | str | Model) -> int:
    if isinstance(source, Model):
        return storage(source.graph)[1]
    path = Path(source)
    return size_on_disk(path) if path.is_file() else 0


def _declared(tensor: gs.Tensor) -> Port:
    sizes = tuple(size if isinstance(size, int | str) else None for size in tensor.shape or ())
    known = isinstance(tensor.dtype, type | np.dtype)
    return Port(tensor.name, np.dtype(tensor.dtype) if known else None, sizes)


def _port(value: Any) -> Port:
    dtype = _DTYPES.get(value.type)
    return Port(value.name, None if dtype is None else np.dtype(dtype), tuple(value.shape))


def first_line(error: Exception) -> str:
    """The line of a runtime's error that says what is wrong, without its own source positions."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    # "[ONNXRuntimeError] : 1 : FAIL : what" and "/path/file.cc:12 function what" carry noise before the message.
    text = text.rpartition("[ONNXRuntimeError] : ")[2]
    text = text.split(" : ", 2)[-1]
    # Our temporary files have names that mean nothing to the reader.
    return re.sub(r"^Load model from .*? failed: ?", "", text)[:300]
