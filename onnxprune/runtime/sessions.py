"""Models opened to run: whole, or piece by piece where memory is short."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import onnxruntime as ort

from onnxprune.errors import ModelError
from onnxprune.graph import storage
from onnxprune.interface import interface_of
from onnxprune.memory import memory_limit
from onnxprune.model import Model, load, size_on_disk, to_references
from onnxprune.packing import find_packed
from onnxprune.packing.forms import decoding_bytes
from onnxprune.pieces import Piece, cut_into_pieces, run_in_pieces
from onnxprune.runtime.options import Level, first_line, session_options
from onnxprune.runtime.ports import Feeds, declared, port_of
from onnxprune.runtime.writing import written

# A session holds its weights once as they are stored and once as its kernels want them.
COPIES = 2


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
        self.inputs = tuple(port_of(value) for value in session.get_inputs())
        self.outputs = tuple(port_of(value) for value in session.get_outputs())

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
        self.inputs = tuple(declared(tensor) for tensor in model.graph.inputs)
        self.outputs = tuple(declared(tensor) for tensor in model.graph.outputs)
        self._model = model.copy()
        self._pieces = pieces_of(self._model, limit_bytes)
        self._level: Level = level
        self._threads = threads

    def run(self, feeds: Feeds) -> dict[str, Any]:
        """Outputs by name; see `Session.run`."""

        def run(piece: Model, values: Mapping[str, Any]) -> dict[str, Any]:
            return run_piece(piece, values, level=self._level, threads=self._threads, name=self.name)

        return run_in_pieces(self._model, self._pieces, self.interface.fitted(feeds), run)


def pieces_of(model: Model, limit_bytes: int, sizes: Mapping[str, int] | None = None) -> tuple[Piece, ...]:
    """The pieces of a model whose sessions take so many bytes each.

    Packed weights count as they are decoded, other constants as they are stored unless `sizes` names them.
    """
    decoded = {packed.tensor.name: decoding_bytes(packed.form) for packed in find_packed(model.graph)}
    return cut_into_pieces(model.graph, limit_bytes // COPIES, {**decoded, **(sizes or {})})


def run_piece(
    piece: Model, values: Mapping[str, Any], *, level: Level = "default", threads: int = 1, name: str = "model.onnx"
) -> dict[str, Any]:
    """What a piece gives, by a session that is gone afterwards.

    Raises:
        ModelError: it does not run.
    """
    try:
        return _opened(piece, level, threads, name, packed=False).run(values)
    except ModelError:
        # Some kernels can do with rearranged weights only.
        return _opened(piece, level, threads, name, packed=True).run(values)


def _opened(piece: Model, level: Level, threads: int, name: str, *, packed: bool) -> Session:
    """A session whose weights stay in the files they are mapped from; `packed`: and in copies that kernels make."""
    message, root = to_references(piece)
    options = session_options(level, threads)
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.disable_prepacking", "0" if packed else "1")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(root))
    return session_of(message, options, name=name)


def takes_too_much(source: Path | str | Model) -> bool:
    """Whether a session of the whole model would take more memory than it may."""
    limit = memory_limit()
    return limit is not None and _weight_bytes(source) * COPIES > limit


def open_session(source: Path | str | Model, *, level: Level = "default", threads: int = 1) -> Session:
    """A session on the CPU provider, with optimizations at their default (all) or off.

    Raises:
        ModelError: onnxruntime refuses the model.
    """
    limit = memory_limit()
    if limit is not None and takes_too_much(source):
        name = "model.onnx" if isinstance(source, Model) else Path(source).name
        model = source if isinstance(source, Model) else load(source)
        return PieceSession(model, limit, level=level, threads=threads, name=name)
    if isinstance(source, Model):
        with written(source) as path:
            return session_of(path, session_options(level, threads))
    return session_of(source, session_options(level, threads))


def session_of(source: Path | str | bytes, options: ort.SessionOptions, *, name: str | None = None) -> Session:
    """A session with options of its own; the whole model is held. `name` is what errors call it, if not its file's.

    Raises:
        ModelError: onnxruntime refuses the model.
    """
    name = name or ("model.onnx" if isinstance(source, bytes) else Path(source).name)
    try:
        opened = source if isinstance(source, bytes) else str(source)
        session = ort.InferenceSession(opened, options, providers=["CPUExecutionProvider"])
        # Names of a damaged file need not be text.
        return Session(session, name)
    except Exception as error:  # onnxruntime's errors share no base class
        raise ModelError(f"{name}: onnxruntime refuses the model: {first_line(error)}") from error


def _weight_bytes(source: Path | str | Model) -> int:
    if isinstance(source, Model):
        return storage(source.graph)[1]
    path = Path(source)
    return size_on_disk(path) if path.is_file() else 0
